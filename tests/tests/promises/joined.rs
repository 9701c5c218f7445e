//! Control plane and node as two programs: `kobune server`, and `kobune agent` that joins it with a token.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kobune_tests::harness::{Host, eventually};
use kobune_tests::paths;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn an_agent_joins_a_server_and_runs_its_pods() {
    let mut host = Host::new("joined");
    host.start_with("server", &[]);
    let ready = || host.kubectl(&["get", "--raw", "/readyz"]).result();
    eventually("the server answers", MINUTE, ready);
    let token = host.client(&["token", "create", "--ttl", "10m"]).ok();

    // The node has a data directory of its own, as on a machine of its own.
    let data = host.dir.join("node").display().to_string();
    for archive in kobune_tests::harness::image::standard().expect("test images") {
        let archive = archive.display().to_string();
        host.client(&["image", "import", &archive, "--data-dir", &data]).ok();
    }
    let run = format!("/run/{}-node", host.name);
    let server = host.kubeconfig_value("server");
    let log = host.dir.join("log").display().to_string();
    let config = host.dir.join("config.yaml").display().to_string();
    let spawn = |host: &Host, token: &[&str]| {
        let mut agent = Command::new(paths::kobune());
        agent
            .args(["agent", "--server", &server, "--config", &config])
            .args(["--data-dir", &data, "--run-dir", &run, "--log-dir", &log])
            .args(["--cgroup-root", &host.name, "--node-name", "worker"])
            .args(token)
            .env("PATH", "/nonexistent")
            .stderr(fs::File::create(host.dir.join("agent.log")).expect("a log"))
            .stdout(Stdio::null());
        host.run(|| agent.spawn()).expect("start the agent")
    };
    let mut agent = spawn(&host, &["--token", token.trim()]);

    eventually("the node is registered", MINUTE, || host.kubectl(&["get", "node/worker"]).result());
    host.wait_for("node/worker", "condition=Ready");
    host.apply_example("myapp.yaml").ok();
    host.apply_example("myapp-service.yaml").ok();
    host.kubectl_ok(&["rollout", "status", "deployment/myapp", "--timeout=60s"]);
    let vip = host.service_address("myapp", 80);
    eventually("all three answer", MINUTE, || match host.who_answers(vip, "/", 60).len() {
        3 => Ok(()),
        few => Err(format!("{few} answer")),
    });
    assert!(host.kubectl_ok(&["logs", "deployment/myapp"]).contains("serving"));

    let requests = host.kubectl_ok(&["get", "csr"]);
    assert!(requests.contains("Approved,Issued"), "{requests}");
    end(&mut agent);

    // What it joined with is no longer needed, nor good for anybody else.
    let id = token.split('.').nth(1).expect("an id");
    assert!(host.client(&["token", "list"]).ok().contains(id));
    host.client(&["token", "delete", id]).ok();
    let other = host.dir.join("other").display().to_string();
    let late = ["agent", "--server", &server, "--token", token.trim(), "--data-dir", &other];
    let said = host.client(&late).err();
    assert!(said.contains("does not know it"), "{said}");
    let said = host.client(&["agent", "--server", &server, "--data-dir", &other]).err();
    assert!(said.contains("kobune token create"), "{said}");
    let mut agent = spawn(&host, &[]);
    let log = host.dir.join("agent.log");
    eventually("the node is back without a token", MINUTE, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        if text.contains("works for") { Ok(()) } else { Err(text) }
    });
    end(&mut agent);
    assert_eq!(host.end_node(Signal::SIGTERM), Some(0), "{}", host.node_log());
}

fn end(agent: &mut Child) {
    let pid = i32::try_from(agent.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("end the agent");
    assert!(agent.wait().expect("wait for the agent").success());
}

#[test]
fn a_wrong_token_is_refused_with_words() {
    let mut host = Host::new("token");
    host.start_with("server", &[]);
    eventually("the server answers", MINUTE, || {
        host.kubectl(&["get", "--raw", "/readyz"]).result()
    });
    let server = host.kubeconfig_value("server");
    let data = host.dir.join("node").display().to_string();
    let arguments = ["agent", "--server", &server, "--token", "guess", "--data-dir", &data];
    let said = host.client(&arguments).err();
    assert!(said.contains("token"), "{said}");
}
