//! A small HTTP/1.1 client over std's sockets: one request per connection, bodies whole or line by line.
//! Enough for test programs and `kubectl proxy`; knows no TLS.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

/// `GET path`, answered within `timeout` (per read and write).
pub fn get(to: SocketAddr, path: &str, timeout: Duration) -> io::Result<Response> {
    request(to, "GET", path, None, timeout)
}

/// Any request; a body is JSON (or what its content type says).
pub fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: Option<(&str, &str)>,
    timeout: Duration,
) -> io::Result<Response> {
    let (status, mut reader) = open(to, method, path, body, timeout)?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(Response { status, body: String::from_utf8_lossy(&bytes).into_owned() })
}

/// Sends a request and returns the status with the body as a stream, for watches.
pub fn open(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: Option<(&str, &str)>,
    timeout: Duration,
) -> io::Result<(u16, Body)> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    let (content_type, body) = body.unwrap_or_default();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    if !content_type.is_empty() {
        head += &format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut reader = BufReader::new(stream);
    let (status, form) = read_head(&mut reader)?;
    Ok((status, Body { reader, form }))
}

/// How the end of a body is told.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    Length(usize),
    /// Bytes left of the present chunk; `None` after the last.
    Chunked(Option<usize>),
    UntilClose,
}

/// The body of an answer, decoded.
pub struct Body {
    reader: BufReader<TcpStream>,
    form: Form,
}

fn read_head(reader: &mut impl BufRead) -> io::Result<(u16, Form)> {
    let status = line(reader)?;
    let code = status.split(' ').nth(1).and_then(|word| word.parse().ok());
    let code = code.ok_or_else(|| bad(&format!("not an HTTP answer: {status:?}")))?;
    let mut form = Form::UntilClose;
    loop {
        let header = line(reader)?.to_ascii_lowercase();
        match header.split_once(':').map(|(name, value)| (name, value.trim())) {
            None => return Ok((code, form)),
            Some(("content-length", value)) => {
                form = Form::Length(value.parse().map_err(|_| bad("content-length"))?);
            }
            Some(("transfer-encoding", "chunked")) => form = Form::Chunked(Some(0)),
            Some(_) => {}
        }
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn bad(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_owned())
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.form == Form::Chunked(Some(0)) {
            self.next_chunk()?;
        }
        let left = match self.form {
            Form::Length(left) | Form::Chunked(Some(left)) => left,
            Form::Chunked(None) => 0,
            Form::UntilClose => usize::MAX,
        };
        let wanted = buffer.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..wanted])?;
        if count == 0 && self.form != Form::UntilClose {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &mut self.form {
            Form::Length(left) => *left -= count,
            Form::Chunked(Some(left)) => {
                *left -= count;
                if *left == 0 {
                    line(&mut self.reader)?;
                }
            }
            Form::Chunked(None) | Form::UntilClose => {}
        }
        Ok(count)
    }
}

impl Body {
    /// A second handle of the connection, to end a stream from elsewhere.
    pub(super) fn connection(&self) -> io::Result<TcpStream> {
        self.reader.get_ref().try_clone()
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let size = line(&mut self.reader)?;
        let digits = size.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(digits, 16).map_err(|_| bad("chunk size"))?;
        self.form = Form::Chunked(if size == 0 { None } else { Some(size) });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers one connection with these bytes.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            stream.write_all(answer.as_bytes()).expect("answer");
        });
        address
    }

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[test]
    fn reads_a_body_of_known_length() {
        let to = server("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngoneXXXX");
        let answer = get(to, "/", TIMEOUT).expect("answer");
        assert_eq!((answer.status, answer.body.as_str()), (404, "gone"));
    }

    #[test]
    fn reads_chunks() {
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                      3\r\nabc\r\n5;x\r\n\ndefg\r\n0\r\n\r\n";
        assert_eq!(get(server(answer), "/", TIMEOUT).expect("answer").body, "abc\ndefg");
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        let to = server("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        assert!(get(to, "/", TIMEOUT).is_err());
        assert!(get(server("SSH-2.0\r\n\r\n"), "/", TIMEOUT).is_err());
    }
}
