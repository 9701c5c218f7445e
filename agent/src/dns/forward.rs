//! Other people's names: asked of the host's resolvers, remembered for a while.
//!
//! A question that is being asked already is not asked again: everybody waits for the one answer.
//! That also ends loops: where a resolver of the host leads back here, its question finds itself.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use super::wire::Reply;

/// For one resolver to answer.
const ATTEMPT: Duration = Duration::from_secs(2);
/// For all of them together; clients ask again after five seconds.
const TOTAL: Duration = Duration::from_millis(4500);
/// Questions waited for at once.
const MOST_WAITING: usize = 1024;
/// Answers remembered, none larger than [`MOST_BYTES`].
const MOST_ANSWERS: usize = 10_000;
const MOST_BYTES: usize = 2048;
/// Nothing is believed for longer.
const LONGEST: Duration = Duration::from_secs(30);

type Question = (Name, RecordType);

pub(super) struct Forwarder {
    /// Reads the host's resolvers, each time: they change when the host moves.
    upstreams: Box<dyn Fn() -> Vec<SocketAddr> + Send + Sync>,
    waiting: Semaphore,
    flights: Mutex<HashMap<Question, Arc<OnceCell<Reply>>>>,
    cache: Mutex<Cache>,
}

impl Forwarder {
    pub(super) fn new(upstreams: impl Fn() -> Vec<SocketAddr> + Send + Sync + 'static) -> Self {
        Self {
            upstreams: Box::new(upstreams),
            waiting: Semaphore::new(MOST_WAITING),
            flights: Mutex::default(),
            cache: Mutex::default(),
        }
    }

    /// The answer to `ask`; SERVFAIL if nobody has one.
    pub(super) async fn resolve(&self, ask: &Query) -> Reply {
        let question = (ask.name().to_lowercase(), ask.query_type());
        let known = lock(&self.cache).get(&question, Instant::now());
        if let Some(known) = known {
            return known;
        }
        let Ok(_place) = self.waiting.try_acquire() else {
            return Reply::of(ResponseCode::ServFail);
        };
        let flight = Arc::clone(lock(&self.flights).entry(question.clone()).or_default());
        // The first one asks; should the answer not come in time, it does not come for the others.
        let asked = flight.get_or_init(|| self.ask(ask, &question));
        let reply = timeout(TOTAL + ATTEMPT, asked).await.cloned();
        let mut flights = lock(&self.flights);
        if flights.get(&question).is_some_and(|current| Arc::ptr_eq(current, &flight)) {
            flights.remove(&question);
        }
        drop(flights);
        reply.unwrap_or_else(|_| Reply::of(ResponseCode::ServFail))
    }

    async fn ask(&self, ask: &Query, question: &Question) -> Reply {
        let upstreams = (self.upstreams)();
        let asked = timeout(TOTAL, first_answer(&upstreams, ask)).await;
        let Ok(Some((reply, bytes))) = asked else { return Reply::of(ResponseCode::ServFail) };
        if bytes <= MOST_BYTES {
            lock(&self.cache).put(question.clone(), &reply, Instant::now());
        }
        reply
    }
}

/// Nothing is left half-done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks one after the other; a refusal counts only if nobody has better. With the bytes it came in.
async fn first_answer(upstreams: &[SocketAddr], ask: &Query) -> Option<(Reply, usize)> {
    let mut refusal = None;
    for upstream in upstreams.iter().chain(upstreams) {
        match timeout(ATTEMPT, exchange(*upstream, ask)).await {
            Ok(Ok((reply, bytes))) => match reply.code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Some((reply, bytes)),
                _ => refusal = Some((reply, bytes)),
            },
            Ok(Err(error)) => tracing::debug!(%upstream, %error, "ask the host's resolver"),
            Err(_) => tracing::debug!(%upstream, "the host's resolver does not answer"),
        }
    }
    refusal
}

async fn exchange(upstream: SocketAddr, ask: &Query) -> io::Result<(Reply, usize)> {
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Query;
    message.metadata.recursion_desired = true;
    message.add_query(ask.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.edns = Some(edns);
    let packet = message.to_vec().map_err(io::Error::other)?;
    let (answer, bytes) = over_udp(upstream, &message, &packet).await?;
    let (answer, bytes) = match answer.metadata.truncation {
        true => over_tcp(upstream, &message, &packet).await?,
        false => (answer, bytes),
    };
    let reply = Reply {
        code: answer.metadata.response_code,
        answers: answer.answers,
        authorities: answer.authorities,
        additionals: Vec::new(),
    };
    Ok((reply, bytes))
}

async fn over_udp(
    upstream: SocketAddr,
    asked: &Message,
    packet: &[u8],
) -> io::Result<(Message, usize)> {
    // A new socket for each question: its port, which the kernel picks, is half of what a liar must guess.
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(packet).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let received = buffer.get(..length).unwrap_or_default();
        if let Ok(answer) = Message::from_vec(received)
            && answers(&answer, asked)
        {
            return Ok((answer, length));
        }
    }
}

async fn over_tcp(
    upstream: SocketAddr,
    asked: &Message,
    packet: &[u8],
) -> io::Result<(Message, usize)> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), packet].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer).await?;
    match Message::from_vec(&buffer) {
        Ok(answer) if answers(&answer, asked) => Ok((answer, length)),
        _ => Err(io::Error::other("the answer is not to the question")),
    }
}

fn answers(answer: &Message, asked: &Message) -> bool {
    answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == hickory_proto::op::MessageType::Response
        && answer.queries == asked.queries
}

/// Answers with the moment they came and the moment they go.
#[derive(Default)]
struct Cache {
    answers: HashMap<Question, (Instant, Instant, Reply)>,
}

impl Cache {
    fn get(&self, question: &Question, now: Instant) -> Option<Reply> {
        let (came, goes, reply) = self.answers.get(question)?;
        if *goes <= now {
            return None;
        }
        let age = u32::try_from(now.saturating_duration_since(*came).as_secs()).unwrap_or(u32::MAX);
        let mut reply = reply.clone();
        for record in reply.answers.iter_mut().chain(&mut reply.authorities) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(reply)
    }

    fn put(&mut self, question: Question, reply: &Reply, now: Instant) {
        let Some(lifetime) = lifetime(reply) else { return };
        if self.answers.len() >= MOST_ANSWERS {
            self.answers.retain(|_, (_, goes, _)| *goes > now);
        }
        if self.answers.len() >= MOST_ANSWERS {
            // Which ones does not matter much; a map's order is as good as chance.
            let some: Vec<Question> = self.answers.keys().take(MOST_ANSWERS / 4).cloned().collect();
            some.iter().for_each(|question| drop(self.answers.remove(question)));
        }
        self.answers.insert(question, (now, now + lifetime, reply.clone()));
    }
}

/// How long a reply may be believed (RFC 2308 for what is not there); None: not at all.
fn lifetime(reply: &Reply) -> Option<Duration> {
    let seconds = match (reply.code, reply.answers.is_empty()) {
        (ResponseCode::NoError, false) => reply.answers.iter().map(|one| one.ttl).min(),
        (ResponseCode::NoError | ResponseCode::NXDomain, _) => {
            reply.authorities.iter().filter_map(negative).min()
        }
        _ => None,
    }?;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(LONGEST))
}

fn negative(record: &Record) -> Option<u32> {
    match &record.data {
        RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
