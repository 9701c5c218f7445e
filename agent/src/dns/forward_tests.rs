//! Against resolvers on the loopback that say what the test wants.

use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::MessageType;
use hickory_proto::rr::rdata::SOA;
use tokio::net::TcpListener;

use super::*;

fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

fn record(ttl: u32) -> Record {
    Record::from_rdata(name("example.com."), ttl, RData::A(Ipv4Addr::new(192, 0, 2, 7).into()))
}

fn ask() -> Query {
    Query::query(name("Example.com."), RecordType::A)
}

fn answer_to(packet: &[u8], change: impl Fn(&mut Message)) -> Vec<u8> {
    let mut message = Message::from_vec(packet).unwrap();
    message.metadata.message_type = MessageType::Response;
    change(&mut message);
    message.to_vec().unwrap()
}

/// A resolver over UDP; counts the questions.
async fn resolver(
    change: impl Fn(&mut Message) + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            asked.fetch_add(1, Ordering::SeqCst);
            // Somebody guesses first.
            let lie = answer_to(&buffer[..length], |message| {
                message.metadata.id = message.metadata.id.wrapping_add(1);
            });
            socket.send_to(&lie, from).await.unwrap();
            socket.send_to(&answer_to(&buffer[..length], &change), from).await.unwrap();
        }
    });
    (address, count)
}

#[tokio::test]
async fn an_answer_is_remembered_and_a_liar_not_believed() {
    let (address, count) = resolver(|message| message.answers = vec![record(60)]).await;
    let forwarder = Forwarder::new(move || vec![address]);
    for _ in 0..3 {
        assert_eq!(forwarder.resolve(&ask()).await.answers, [record(60)]);
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refusal_makes_the_next_one_be_asked_and_nobody_is_servfail() {
    let (bad, _) = resolver(|m| m.metadata.response_code = ResponseCode::Refused).await;
    let (good, _) = resolver(|message| message.answers = vec![record(60)]).await;
    let forwarder = Forwarder::new(move || vec![bad, good]);
    assert_eq!(forwarder.resolve(&ask()).await.answers, [record(60)]);
    let forwarder = Forwarder::new(Vec::new);
    assert_eq!(forwarder.resolve(&ask()).await.code, ResponseCode::ServFail);
}

#[tokio::test]
async fn the_same_question_at_once_is_asked_once() {
    let (address, count) = resolver(|message| message.answers = vec![record(0)]).await;
    let forwarder = Forwarder::new(move || vec![address]);
    let ask = ask();
    let both = tokio::join!(forwarder.resolve(&ask), forwarder.resolve(&ask));
    assert_eq!((both.0.answers.len(), both.1.answers.len()), (1, 1));
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // A lifetime of zero is not remembered.
    forwarder.resolve(&ask).await;
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_does_not_fit_comes_over_tcp() {
    let (address, _) = resolver(|message| message.metadata.truncation = true).await;
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut packet = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut packet).await.unwrap();
        let answer = answer_to(&packet, |message| message.answers = vec![record(9); 1]);
        stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    });
    let forwarder = Forwarder::new(move || vec![address]);
    assert_eq!(forwarder.resolve(&ask()).await.answers, [record(9)]);
}

#[test]
fn the_cache_ages_and_is_bounded() {
    let start = Instant::now();
    let mut cache = Cache::default();
    let question = |n: usize| (name(&format!("n{n}.example.com.")), RecordType::A);
    let reply = Reply { answers: vec![record(20)], ..Reply::default() };
    cache.put(question(0), &reply, start);
    let later = cache.get(&question(0), start + Duration::from_secs(15)).unwrap();
    assert_eq!(later.answers[0].ttl, 5);
    assert_eq!(cache.get(&question(0), start + Duration::from_secs(20)), None);
    for n in 0..MOST_ANSWERS + 10 {
        cache.put(question(n), &reply, start);
        assert!(cache.answers.len() <= MOST_ANSWERS);
    }
    assert!(cache.get(&question(MOST_ANSWERS + 9), start).is_some());
}

#[test]
fn how_long_a_reply_lives() {
    let soa = SOA::new(Name::root(), Name::root(), 1, 2, 3, 4, 7);
    let soa = Record::from_rdata(name("com."), 100, RData::SOA(soa));
    let gone = Reply { authorities: vec![soa], ..Reply::of(ResponseCode::NXDomain) };
    assert_eq!(lifetime(&gone), Some(Duration::from_secs(7)));
    let long = Reply { answers: vec![record(9999)], ..Reply::default() };
    assert_eq!(lifetime(&long), Some(LONGEST));
    assert_eq!(lifetime(&Reply::of(ResponseCode::ServFail)), None);
    assert_eq!(lifetime(&Reply::default()), None);
}
