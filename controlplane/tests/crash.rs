//! `kill -9` in the middle of writes: every acknowledged one is there afterwards.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use kobune_controlplane::object::Key;
use kobune_controlplane::reader::Reader;
use kobune_controlplane::store::{Store, Write as Change};
use serde_json::json;

const RESOURCE: &str = "configmaps";
const DIRECTORY: &str = "KOBUNE_CRASH_DIRECTORY";
/// With the power cuts of `torn.rs`: a thousand.
const ROUNDS: usize = 60;
const WRITERS: usize = 16;

fn path(dir: &Path) -> PathBuf {
    dir.join("store.redb")
}

/// The process that is killed: writes as fast as it can and tells what was acknowledged.
#[tokio::test]
#[ignore = "is started by the test below"]
async fn child() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let store = Arc::new(Store::open(&path(Path::new(&dir))).unwrap());
    let first = store.list(RESOURCE, None).len();
    let writer = |offset: usize| {
        let store = store.clone();
        async move {
            for n in (first + offset..).step_by(WRITERS) {
                let name = format!("o{n}-{}", std::process::id());
                let value = json!({"metadata": {"name": name, "namespace": "default"}});
                let key = Key::new(RESOURCE, "default", &name);
                let object = store.commit(Change::Create { key, value }).await.unwrap();
                let line = format!("acknowledged {} {name}\n", object.meta.resource_version);
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        }
    };
    futures::future::join_all((0..WRITERS).map(writer)).await;
}

#[test]
fn acknowledged_writes_survive_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(u64, String)> = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = |line: String| {
            let (_, rest) = line.split_once("acknowledged ")?;
            let (version, name) = rest.split_once(' ')?;
            Some((version.parse().ok()?, name.to_owned()))
        };
        // Killed after a different number of writes each time, most likely inside a commit.
        let wanted = 1 + round * 37 % 300;
        acknowledged.extend(lines.by_ref().map_while(Result::ok).filter_map(told).take(wanted));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it died counts as well; a line cut short does not.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        let whole = rest.len().saturating_sub(1);
        acknowledged.extend(rest.into_iter().take(whole).filter_map(told));
        let store = Store::open(&path(dir.path())).unwrap();
        for (version, name) in &acknowledged {
            let object = store.get(RESOURCE, "default", name);
            let object = object.unwrap_or_else(|| panic!("{name} was acknowledged and is lost"));
            assert_eq!(object.meta.resource_version, *version);
        }
        let newest = acknowledged.iter().map(|(version, _)| *version).max();
        assert!(store.revision() >= newest.unwrap());
        store.close();
    }
    assert!(acknowledged.len() > ROUNDS * 100);
}
