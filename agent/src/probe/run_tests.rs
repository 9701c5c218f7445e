//! Probes against servers made for the test.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn target() -> Target {
    let text = r#"{"name":"app","ports":[{"name":"web","containerPort":8080}]}"#;
    Target {
        address: Some("127.0.0.1".into()),
        socket: "/nonexistent".into(),
        container: serde_json::from_str(text).unwrap(),
        process: None,
    }
}

/// Answers one connection with `answer` (nothing at all if None) and returns the request's first line.
async fn server(answer: Option<&'static str>) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read_buf(&mut seen).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        match answer {
            Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            None => {
                // Until the other side gives up.
                let _ = stream.read_buf(&mut seen).await;
            }
        }
        String::from_utf8_lossy(&seen).lines().next().unwrap_or_default().to_owned()
    });
    (port, task)
}

fn http_probe(port: u16) -> Probe {
    serde_json::from_value(
        serde_json::json!({ "httpGet": { "port": port, "path": "/healthz?full" } }),
    )
    .unwrap()
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn http_statuses() {
    let table = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Outcome::Success),
        ("HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n", Outcome::Success),
        (
            "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
            Outcome::Failure("HTTP probe failed with statuscode: 503".into()),
        ),
    ];
    for (answer, expected) in table {
        let (port, task) = server(Some(answer)).await;
        assert_eq!(probe(&target(), &http_probe(port), SECOND).await, expected);
        assert_eq!(task.await.unwrap(), "GET /healthz?full HTTP/1.1");
    }
}

#[tokio::test]
async fn a_silent_server_and_a_closed_port_fail_with_upstreams_words() {
    let (port, task) = server(None).await;
    let Outcome::Failure(message) =
        probe(&target(), &http_probe(port), Duration::from_millis(50)).await
    else {
        panic!("expected a failure")
    };
    assert!(message.contains("context deadline exceeded"), "{message}");
    task.await.unwrap();

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let tcp: Probe =
        serde_json::from_value(serde_json::json!({ "tcpSocket": { "port": port } })).unwrap();
    let expected = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(probe(&target(), &tcp, SECOND).await, Outcome::Failure(expected.clone()));
    let expected = format!("Get \"http://127.0.0.1:{port}/healthz?full\": {expected}");
    assert_eq!(probe(&target(), &http_probe(port), SECOND).await, Outcome::Failure(expected));
}

#[tokio::test]
async fn tcp_succeeds_when_somebody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tcp: Probe =
        serde_json::from_value(serde_json::json!({ "tcpSocket": { "port": port } })).unwrap();
    assert_eq!(probe(&target(), &tcp, SECOND).await, Outcome::Success);
}

#[test]
fn ports_by_name() {
    let container = target().container;
    assert_eq!(port_number(&container, &IntOrString::String("web".into())), Ok(8080));
    assert_eq!(port_number(&container, &IntOrString::String("9000".into())), Ok(9000));
    assert!(
        port_number(&container, &IntOrString::String("other".into()))
            .unwrap_err()
            .contains("couldn't find port")
    );
    assert!(port_number(&container, &IntOrString::Int(0)).unwrap_err().contains("invalid port"));
}
