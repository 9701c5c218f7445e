//! Several waiters and one registry that does not answer before it is told to.

use std::sync::mpsc::{Sender, channel};

use super::super::registry::scripted::{Scripted, answer};
use super::*;

/// A registry whose every answer waits for a word of the test, and then is "not found".
fn slow() -> (Scripted, Sender<()>, Arc<tokio::sync::Notify>) {
    let (go, gate) = channel();
    let (gate, asked) = (Mutex::new(gate), Arc::new(tokio::sync::Notify::new()));
    let tell = Arc::clone(&asked);
    let server = Scripted::new(move |_| {
        tell.notify_one();
        let _ = gate.lock().unwrap().recv();
        answer("404 Not Found", &[], b"")
    });
    (server, go, asked)
}

fn puller(parallel: u32) -> (tempfile::TempDir, Puller) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(ImageStore::open(&dir.path().join("images")).unwrap());
    let registry = Registry::new(&dir.path().join("certs.d"), &dir.path().join("auth.json"));
    (dir, Puller::new(store, registry, parallel))
}

fn image(server: &Scripted, tag: &str) -> Reference {
    Reference::parse(&format!("{}/app:{tag}", server.host())).unwrap()
}

#[tokio::test]
async fn waiters_share_one_pull_and_its_end() {
    let ((server, go, asked), (_dir, puller)) = (slow(), puller(4));
    let image = image(&server, "1");
    let one = puller.pull(&image, &Keyring::default());
    let two = puller.pull(&image, &Keyring::default());
    let both = async { tokio::join!(one.done(), two.done()) };
    let release = async {
        asked.notified().await;
        go.send(()).unwrap();
    };
    let ((first, second), ()) = tokio::join!(both, release);
    assert_eq!(first.unwrap_err().to_string(), second.unwrap_err().to_string());
    assert_eq!(server.lines().len(), 1);
    // The next one begins anew, although somebody still holds the last.
    let third = puller.pull(&image, &Keyring::default());
    go.send(()).unwrap();
    assert!(third.done().await.is_err());
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn other_credentials_are_another_pull() {
    let ((server, go, _asked), (_dir, puller)) = (slow(), puller(4));
    let image = image(&server, "1");
    let mine = Keyring::docker_cfg(br#"{"elsewhere.test":{"username":"me"}}"#).unwrap();
    let (one, two) = (puller.pull(&image, &Keyring::default()), puller.pull(&image, &mine));
    go.send(()).unwrap();
    go.send(()).unwrap();
    let _ = tokio::join!(one.done(), two.done());
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn a_pull_ends_with_its_last_waiter() {
    let ((server, _go, asked), (dir, puller)) = (slow(), puller(1));
    let image = image(&server, "1");
    let one = puller.pull(&image, &Keyring::default());
    let two = puller.pull(&image, &Keyring::default());
    tokio::select! {
        _ = one.done() => panic!("nobody answered"),
        () = asked.notified() => {}
    }
    drop(one);
    assert!(two.done().now_or_never().is_none(), "the other one still waits");
    assert_eq!(puller.permits.available_permits(), 0);
    drop(two);
    assert_eq!(puller.permits.available_permits(), 1, "the pull goes on for nobody");
    let left = std::fs::read_dir(dir.path().join("images/tmp")).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn only_so_many_at_a_time() {
    let ((server, go, asked), (_dir, puller)) = (slow(), puller(1));
    let (one, two) = (
        puller.pull(&image(&server, "1"), &Keyring::default()),
        puller.pull(&image(&server, "2"), &Keyring::default()),
    );
    let both = async { tokio::join!(one.done(), two.done()) };
    let watch = async {
        asked.notified().await;
        assert_eq!(server.lines().len(), 1, "the second did not wait");
        go.send(()).unwrap();
        asked.notified().await;
        go.send(()).unwrap();
    };
    let _ = tokio::join!(both, watch);
    assert_eq!(server.lines().len(), 2);
}
