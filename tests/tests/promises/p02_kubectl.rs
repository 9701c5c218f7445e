//! Promise 2: the plain Deployment of the README becomes three ready Pods behind a Service, and kubectl
//! prints what people know.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use kobune_tests::harness::{Host, eventually, squeeze};

use std::time::Duration;

fn with_myapp(purpose: &str) -> Host {
    let host = Host::with_node(purpose);
    assert!(host.apply_example("myapp.yaml").ok().contains("deployment.apps/myapp created"));
    assert!(host.apply_example("myapp-service.yaml").ok().contains("service/myapp created"));
    let status = host.kubectl_ok(&["rollout", "status", "deployment/myapp", "--timeout=60s"]);
    assert!(status.contains("deployment \"myapp\" successfully rolled out"), "{status}");
    host
}

fn names(host: &Host) -> BTreeSet<String> {
    let pods = host.pods("app=myapp");
    pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

/// The rules follow the EndpointSlice in their own time; then all Pods answer.
fn all_answer(host: &Host, to: SocketAddr, path: &str) {
    let expected = names(host);
    assert_eq!(expected.len(), 3);
    eventually("all three Pods answer", Duration::from_secs(10), || {
        let answered = host.who_answers(to, path, 60);
        if answered == expected { Ok(()) } else { Err(format!("only {answered:?}")) }
    });
}

#[test]
fn three_pods_answer_behind_a_cluster_ip_from_host_and_pod() {
    let host = with_myapp("myapp");
    let vip = host.service_address("myapp", 80);
    all_answer(&host, vip, "/");

    host.kubectl_ok(&["run", "client", "--image=myapp:1.0", "--restart=Never"]);
    host.wait_for("pod/client", "condition=Ready");
    all_answer(&host, host.pod_address("client", 8080), &format!("/fetch/{vip}/"));
}

#[test]
fn get_prints_the_columns_people_know() {
    let host = with_myapp("get");
    let kinds = "deploy,rs,pods,svc,endpointslices,nodes,events";
    let all = squeeze(&host.kubectl_ok(&["get", kinds, "-o", "wide"]));
    for columns in [
        "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR",
        "deployment.apps/myapp 3/3 3 3",
        "app myapp:1.0 app=myapp",
        "NAME DESIRED CURRENT READY AGE CONTAINERS IMAGES SELECTOR",
        "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES",
        "1/1 Running 0",
        "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR",
        "service/myapp ClusterIP 10.96.",
        "<none> 80/TCP",
        "NAME ADDRESSTYPE PORTS ENDPOINTS AGE",
        "IPv4 8080 10.244.",
        "NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME",
        "LAST SEEN TYPE REASON OBJECT SUBOBJECT SOURCE MESSAGE FIRST SEEN COUNT NAME",
        "Normal ScalingReplicaSet deployment/myapp",
        "Normal SuccessfulCreate replicaset/myapp-",
        "Normal Scheduled pod/myapp-",
        "Normal Started pod/myapp-",
    ] {
        assert!(all.contains(columns), "`{columns}` is not in: {all}");
    }
}

#[test]
fn describe_tells_the_story() {
    let host = with_myapp("describe");
    let deployment = squeeze(&host.kubectl_ok(&["describe", "deployment", "myapp"]));
    for words in [
        "Replicas: 3 desired | 3 updated | 3 total | 3 available | 0 unavailable",
        "StrategyType: RollingUpdate",
        "RollingUpdateStrategy: 25% max unavailable, 25% max surge",
        "Available True MinimumReplicasAvailable",
        "ScalingReplicaSet",
    ] {
        assert!(deployment.contains(words), "`{words}` is not in: {deployment}");
    }
    let pod = squeeze(&host.kubectl_ok(&["describe", "pods", "-l", "app=myapp"]));
    for words in [
        "Status: Running",
        "Controlled By: ReplicaSet/myapp-",
        "Image: myapp:1.0",
        "Port: 8080/TCP",
        "State: Running",
        "Ready: True",
        "Restart Count: 0",
        "Limits: cpu: 500m memory: 512Mi Requests: cpu: 100m memory: 128Mi",
        "QoS Class: Burstable",
        "ContainersReady True",
        "Pulled",
        "Created",
        "Started",
    ] {
        assert!(pod.contains(words), "`{words}` is not in: {pod}");
    }
    let service = squeeze(&host.kubectl_ok(&["describe", "service", "myapp"]));
    assert!(service.contains("Selector: app=myapp") && service.contains(":8080"), "{service}");
    let node = squeeze(&host.kubectl_ok(&["describe", "node", &host.name]));
    for words in [
        "KubeletReady kubelet is posting ready status",
        "Non-terminated Pods: (3 in total)",
        "PodCIDR: 10.244.",
    ] {
        assert!(node.contains(words), "`{words}` is not in: {node}");
    }
}

#[test]
fn scale_and_delete_do_and_say_so() {
    let host = with_myapp("scale");
    for (replicas, ready) in [("5", "5/5"), ("1", "1/1")] {
        let flag = format!("--replicas={replicas}");
        let said = host.kubectl_ok(&["scale", "deployment/myapp", &flag]);
        assert_eq!(said.trim(), "deployment.apps/myapp scaled");
        host.kubectl_ok(&["rollout", "status", "deployment/myapp", "--timeout=60s"]);
        host.until_field("deployment/myapp", ".status.replicas", replicas);
        let line = squeeze(&host.kubectl_ok(&["get", "deployment", "myapp", "--no-headers"]));
        assert!(line.starts_with(&format!("myapp {ready} ")), "{line}");
    }
    let said = host.kubectl_ok(&["delete", "deployment/myapp", "service/myapp"]);
    assert!(said.contains("deployment.apps \"myapp\" deleted"), "{said}");
    assert!(said.contains("service \"myapp\" deleted"), "{said}");
    host.kubectl_ok(&["wait", "pods", "-l", "app=myapp", "--for=delete", "--timeout=60s"]);
    let left = host.kubectl(&["get", "deploy,rs,pods", "-l", "app=myapp"]).stdout;
    assert_eq!(left, "");
}

#[test]
fn logs_and_exec_reach_the_container() {
    let host = with_myapp("logs");
    let logs = host.kubectl_ok(&["logs", "deployment/myapp"]);
    assert!(logs.contains("serving version 1.0 on 8080"), "{logs}");
    let pod = names(&host).first().cloned().expect("a Pod");
    let outcome = host.kubectl(&["exec", &pod, "--", "/bin/testapp", "lines", "2"]);
    assert_eq!(outcome.ok(), "line 0\nline 1\n");
    let outcome = host.kubectl(&["exec", &pod, "--", "/bin/testapp", "exit", "7"]);
    assert_eq!(outcome.code, Some(7), "{outcome}");
}

#[test]
fn config_arrives_as_environment_and_files() {
    let host = Host::with_node("config");
    host.apply_example("config.yaml").ok();
    host.wait_for("pod/configured", "condition=Ready");
    let exec = |words: &[&str]| {
        let mut line = vec!["exec", "configured", "--"];
        line.extend(words);
        host.kubectl_ok(&line)
    };
    let environment = exec(&["env"]);
    for variable in ["COLOUR=blue", "POD_NAME=configured", "GREETING=hello from configured"] {
        assert!(environment.lines().any(|line| line == variable), "{variable}: {environment}");
    }
    assert_eq!(exec(&["cat", "/etc/settings/greeting.txt"]), "ahoy\n");
    assert_eq!(exec(&["cat", "/etc/key/token"]), "s3cret");
}
