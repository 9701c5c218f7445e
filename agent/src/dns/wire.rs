//! A packet → what to do about it (pure): answer, ask the host's resolvers, or say nothing.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::HINFO;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::lookup::{Found, TTL};

/// Largest packet over UDP: passes every usual link in one piece.
const MOST_UDP: u16 = 1232;
/// Over UDP, when the client says nothing of its own.
const PLAIN_UDP: u16 = 512;
const HEADER: usize = 12;
/// Aliases that are followed; more is a circle.
const ALIASES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

#[derive(Debug)]
pub(super) enum Step {
    Reply(Vec<u8>),
    Forward(Box<Request>),
    Silence,
}

/// A question that stands, and how to answer it.
#[derive(Debug)]
pub(super) struct Request {
    id: u16,
    recursion_desired: bool,
    query: Query,
    edns: bool,
    limit: u16,
    /// Aliases of the cluster that led to `ask`.
    aliases: Vec<Record>,
    /// What the host's resolvers are to be asked.
    pub(super) ask: Query,
}

/// What an answer consists of.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

impl Reply {
    pub(super) fn of(code: ResponseCode) -> Reply {
        Reply { code, ..Reply::default() }
    }
}

/// Decides about one packet. `look` knows the cluster's names.
pub(super) fn step(
    packet: &[u8],
    transport: Transport,
    look: impl Fn(&Name, RecordType) -> Found,
) -> Step {
    let Ok(message) = Message::from_vec(packet) else { return malformed(packet) };
    if message.metadata.message_type != MessageType::Query {
        return Step::Silence;
    }
    let query = match message.queries.as_slice() {
        [query] => query.clone(),
        _ => return refuse(&message, ResponseCode::FormErr),
    };
    if message.metadata.op_code != OpCode::Query {
        return refuse(&message, ResponseCode::NotImp);
    }
    let mut request = Request {
        id: message.metadata.id,
        recursion_desired: message.metadata.recursion_desired,
        ask: query.clone(),
        query,
        edns: message.edns.is_some(),
        limit: limit(&message, transport),
        aliases: Vec::new(),
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Step::Reply(request.encode(Reply::of(ResponseCode::BADVERS), false));
    }
    let kind = request.query.query_type();
    if request.query.query_class() != DNSClass::IN
        || matches!(kind, RecordType::AXFR | RecordType::IXFR)
    {
        return Step::Reply(request.encode(Reply::of(ResponseCode::Refused), false));
    }
    match request.resolve(look) {
        Some(reply) => Step::Reply(request.encode(reply, true)),
        // RFC 8482: nobody needs all records of a name but those who do harm.
        None if kind == RecordType::ANY => {
            let reply = Reply { answers: vec![request.no_any()], ..Reply::default() };
            Step::Reply(request.encode(reply, false))
        }
        None => Step::Forward(Box::new(request)),
    }
}

fn limit(message: &Message, transport: Transport) -> u16 {
    match (transport, &message.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_UDP, MOST_UDP),
        (Transport::Udp, None) => PLAIN_UDP,
    }
}

/// Not to be read beyond its header. A response is not answered: that could go on for ever.
fn malformed(packet: &[u8]) -> Step {
    match packet {
        [a, b, flags, ..] if packet.len() >= HEADER && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*a, *b]);
            let message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            encode(&message, PLAIN_UDP).map_or(Step::Silence, Step::Reply)
        }
        _ => Step::Silence,
    }
}

fn refuse(message: &Message, code: ResponseCode) -> Step {
    let message = Message::error_msg(message.metadata.id, message.metadata.op_code, code);
    encode(&message, PLAIN_UDP).map_or(Step::Silence, Step::Reply)
}

impl Request {
    /// The answer, if it is the cluster's to give.
    fn resolve(&mut self, look: impl Fn(&Name, RecordType) -> Found) -> Option<Reply> {
        for _ in 0..ALIASES {
            let reply = match look(self.ask.name(), self.ask.query_type()) {
                Found::Foreign => return None,
                Found::NotYet => Reply::of(ResponseCode::ServFail),
                Found::NoName(soa) => {
                    Reply { authorities: vec![soa], ..Reply::of(ResponseCode::NXDomain) }
                }
                Found::NoData(_) if self.ask.query_type() == RecordType::ANY => {
                    Reply { answers: vec![self.no_any()], ..Reply::default() }
                }
                Found::NoData(soa) => Reply { authorities: vec![soa], ..Reply::default() },
                Found::Records { answers, additionals } => {
                    Reply { answers, additionals, ..Reply::default() }
                }
                Found::Alias { record, target } => {
                    self.aliases.push(record);
                    self.ask.set_name(target);
                    continue;
                }
            };
            return Some(reply);
        }
        Some(Reply::of(ResponseCode::ServFail))
    }

    fn no_any(&self) -> Record {
        let data = HINFO::new("RFC8482".into(), String::new());
        Record::from_rdata(self.ask.name().clone(), TTL, RData::HINFO(data))
    }

    /// The packet that says `reply`; what does not fit is left out, and marked so.
    pub(super) fn encode(&self, reply: Reply, authoritative: bool) -> Vec<u8> {
        let mut message = Message::response(self.id, OpCode::Query);
        // An alias alone is an answer even where its target cannot be found now.
        let failed = reply.code == ResponseCode::ServFail && !self.aliases.is_empty();
        let code = if failed { ResponseCode::NoError } else { reply.code };
        message.metadata.authoritative = authoritative;
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.queries = vec![self.query.clone()];
        message.answers =
            self.aliases.iter().cloned().chain(turned(reply.answers, self.id)).collect();
        message.authorities = reply.authorities;
        message.additionals = reply.additionals;
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MOST_UDP);
            message.edns = Some(edns);
        }
        encode(&message, self.limit).unwrap_or_else(|| {
            let failure = Message::error_msg(self.id, OpCode::Query, ResponseCode::ServFail);
            encode(&failure, PLAIN_UDP).unwrap_or_default()
        })
    }
}

/// Clients take the first address: everyone gets another one, as the ids of queries are random.
/// The order of anything but addresses of one name means something and stays.
fn turned(mut answers: Vec<Record>, id: u16) -> Vec<Record> {
    let first = answers.first().map(|record| (record.name.clone(), record.record_type()));
    let alike = answers.iter().all(|one| Some((one.name.clone(), one.record_type())) == first);
    if alike && answers.len() > 1 {
        let by = usize::from(id) % answers.len();
        answers.rotate_left(by);
    }
    answers
}

/// At most `limit` bytes, with the truncation flag where that is less than all.
fn encode(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(PLAIN_UDP));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    message.emit(&mut encoder).ok()?;
    Some(bytes)
}
