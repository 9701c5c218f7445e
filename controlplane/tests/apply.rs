//! Server-side apply with every kubectl at hand: `$KUBECTL` or the one on PATH, and the `kubectl.1.N` that lie beside
//! the file it is a link to. Fails when there is none.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kobune_controlplane::{ControlPlane, Options};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn kubectls() -> Vec<PathBuf> {
    let given = std::env::var_os("KUBECTL").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path =
        || std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|f| f.exists());
    let first = given.or_else(on_path).expect("kubectl on PATH or in $KUBECTL");
    let real = first.canonicalize().expect("kubectl is a file");
    let beside = real.parent().and_then(|dir| dir.read_dir().ok()).into_iter().flatten();
    let mut found: Vec<PathBuf> = beside
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl.1."))
        })
        .collect();
    found.sort();
    if found.is_empty() { vec![real] } else { found }
}

/// One kubectl in its own namespace.
struct Kubectl<'a> {
    program: &'a Path,
    home: &'a Path,
    namespace: String,
}

impl Kubectl<'_> {
    fn output(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(self.program)
            // The name that managers of fields go by.
            .arg0("kubectl")
            .arg("--kubeconfig")
            .arg(self.home.join("kubeconfig"))
            .args(["--namespace", &self.namespace])
            .args(arguments)
            .env("HOME", self.home)
            .env("TMPDIR", self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run kubectl");
        // It may end before it has read everything.
        let _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
        child.wait_with_output().expect("kubectl ends")
    }

    #[track_caller]
    fn good(&self, arguments: &[&str], input: &str) -> String {
        let output = self.output(arguments, input);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?} {arguments:?}: {error}", self.program);
        String::from_utf8(output.stdout).expect("text")
    }

    /// Exit code and everything it said.
    fn bad(&self, arguments: &[&str], input: &str) -> (i32, String) {
        let output = self.output(arguments, input);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }
}

fn deployment(image: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector:
    matchLabels: {{app: web}}
  template:
    metadata:
      labels: {{app: web}}
    spec:
      containers:
      - name: c
        image: {image}
        ports:
        - containerPort: 80
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_applies_on_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        data_dir: dir.path().join("data"),
        bind_address: LOCALHOST,
        advertise_address: LOCALHOST,
        secure_port: 0,
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        node_cidr_mask: 24,
        load_balancer_pool: Default::default(),
        extra_sans: Vec::new(),
        etcd: None,
    };
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let control_plane = ControlPlane::start(options).await.unwrap();
    let kubeconfig = control_plane.admin_kubeconfig().unwrap();
    std::fs::write(dir.path().join("kubeconfig"), kubeconfig).unwrap();
    let home = dir.path().to_owned();
    let run = tokio::task::spawn_blocking(move || {
        for (index, program) in kubectls().iter().enumerate() {
            let kubectl = Kubectl { program, home: &home, namespace: format!("v{index}") };
            kubectl.good(&["create", "namespace", &kubectl.namespace], "");
            conflicts(&kubectl);
            migrates(&kubectl);
        }
    });
    run.await.unwrap();
    control_plane.shutdown().await;
}

fn conflicts(kubectl: &Kubectl<'_>) {
    const APPLY: &[&str] = &["apply", "--server-side", "-f", "-"];
    let one = deployment("registry.example/a:1");
    let said = kubectl.good(APPLY, &one);
    assert_eq!(said, "deployment.apps/web serverside-applied\n");
    let managers =
        "jsonpath={range .metadata.managedFields[?(@.operation==\"Apply\")]}{.manager} {end}";
    assert_eq!(kubectl.good(&["get", "deployment", "web", "-o", managers], ""), "kubectl ");
    let yaml = kubectl.good(&["get", "deployment", "web", "-o", "yaml"], "");
    assert!(!yaml.contains("managedFields"), "{yaml}");
    let show = ["get", "deployment", "web", "-o", "yaml", "--show-managed-fields"];
    let yaml = kubectl.good(&show, "");
    assert!(yaml.contains("k:{\"containerPort\":80,\"protocol\":\"TCP\"}:"), "{yaml}");

    kubectl.good(&["scale", "deployment", "web", "--replicas", "3"], "");
    let (code, said) = kubectl.bad(APPLY, &one);
    assert_eq!(code, 1, "{said}");
    let expected = "Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas";
    assert!(said.contains(expected) && said.contains("--force-conflicts"), "{said}");

    let two = deployment("registry.example/a:2");
    let diff = ["diff", "--server-side", "--force-conflicts", "-f", "-"];
    let (code, said) = kubectl.bad(&diff, &two);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("+      - image: registry.example/a:2"), "{said}");
    let force = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    kubectl.good(&force, &two);
    let image = "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image}";
    let found = kubectl.good(&["get", "deployment", "web", "-o", image], "");
    assert_eq!(found, "2 registry.example/a:2");
    assert_eq!(kubectl.bad(&diff, &two).0, 0, "what was just applied differs in nothing");

    let strange = one.replace("  replicas:", "  replica:");
    let (code, said) = kubectl.bad(APPLY, &strange);
    assert_ne!(code, 0);
    assert!(said.contains("spec.replica"), "{said}");
}

/// From client-side to server-side apply and on: what is left out goes.
fn migrates(kubectl: &Kubectl<'_>) {
    let map = |data: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {data}\n")
    };
    kubectl.good(&["apply", "-f", "-"], &map("{a: one, b: one}"));
    kubectl.good(&["apply", "--server-side", "-f", "-"], &map("{a: two, b: one}"));
    let data = ["get", "configmap", "m", "-o", "jsonpath={.data}"];
    assert_eq!(kubectl.good(&data, ""), r#"{"a":"two","b":"one"}"#);
    kubectl.good(&["apply", "--server-side", "-f", "-"], &map("{a: two}"));
    assert_eq!(kubectl.good(&data, ""), r#"{"a":"two"}"#);
    kubectl.good(&["apply", "-f", "-"], &map("{a: three}"));
    assert_eq!(kubectl.good(&data, ""), r#"{"a":"three"}"#);
    let foreign = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let (code, said) = kubectl.bad(&foreign, &map("{a: four}"));
    assert!(code == 1 && said.contains(": .data.a"), "{said}");
}
