//! The channel protocol inside exec's WebSocket: the first byte of a binary message is the channel. Pure.
//!
//! ```text
//! 0 stdin     client → us      3 error    us → client: one Status, the end
//! 1 stdout    us → client      4 resize   client → us: {"Width":80,"Height":24}
//! 2 stderr    us → client    255 close    v5 only: the second byte says which channel
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

pub(super) const V5: &str = "v5.channel.k8s.io";
pub(super) const V4: &str = "v4.channel.k8s.io";

/// What a client sent.
#[derive(Debug, PartialEq)]
pub(super) enum Input {
    Stdin(Bytes),
    Resize {
        width: u16,
        height: u16,
    },
    CloseStdin,
    /// Means nothing to us (an empty message opens a channel, says the protocol).
    Nothing,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Read one binary message.
pub(super) fn decode(message: &Bytes) -> Input {
    match message.split_first() {
        Some((&STDIN, rest)) if !rest.is_empty() => Input::Stdin(message.slice(1..)),
        Some((&RESIZE, rest)) => size(rest),
        Some((&CLOSE, [STDIN])) => Input::CloseStdin,
        _ => Input::Nothing,
    }
}

/// Read a terminal's size.
pub(super) fn size(json: &[u8]) -> Input {
    match serde_json::from_slice::<Size>(json) {
        Ok(Size { width, height }) => Input::Resize { width, height },
        Err(_) => Input::Nothing,
    }
}

/// Write one binary message.
pub(super) fn encode(channel: u8, data: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.put_u8(channel);
    message.put_slice(data);
    message.freeze()
}

/// The last word: how the process ended.
pub(super) fn exited(code: i32) -> Value {
    match code {
        0 => json!({"metadata": {}, "status": "Success"}),
        code => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
    }
}

/// The last word: there was no process.
pub(super) fn failed(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: error executing command in container: {message}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    })
}

/// The message that carries the last word.
pub(super) fn last(status: &Value) -> Bytes {
    encode(ERROR, status.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_from_clients() {
        let read = |bytes: &'static [u8]| decode(&Bytes::from_static(bytes));
        assert_eq!(read(b"\x00abc"), Input::Stdin(Bytes::from_static(b"abc")));
        let size = Input::Resize { width: 80, height: 24 };
        assert_eq!(read(b"\x04{\"Width\":80,\"Height\":24}\n"), size);
        assert_eq!(read(b"\xff\x00"), Input::CloseStdin);
        for nothing in [
            &b""[..],
            b"\x00",
            b"\x01x",
            b"\x04{",
            b"\x04{\"Width\":-1,\"Height\":1}",
            b"\xff",
            b"\xff\x01",
            b"\xff\x00\x00",
            b"\x09x",
        ] {
            assert_eq!(read(nothing), Input::Nothing, "{nothing:?}");
        }
    }

    #[test]
    fn the_last_word_is_a_status() {
        let message = last(&exited(0));
        assert_eq!(message[0], ERROR);
        let status: Value = serde_json::from_slice(&message[1..]).unwrap();
        assert_eq!(status["status"], "Success");
        let three = exited(3);
        assert_eq!(three["reason"], "NonZeroExitCode");
        assert_eq!(three["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert!(failed("no such file")["message"].as_str().unwrap().contains("no such file"));
    }
}
