//! The control plane as its users have it: over TLS on the loopback address, and in memory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret, Service, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kobune_controlplane::{ControlPlane, Options, UserInfo};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use kube::runtime::wait::await_condition;
use kube::{Client, Config};
use tempfile::TempDir;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn start(dir: &TempDir) -> ControlPlane {
    let options = Options {
        data_dir: dir.path().into(),
        bind_address: LOCALHOST,
        advertise_address: LOCALHOST,
        secure_port: 0,
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        node_cidr_mask: 24,
        load_balancer_pool: Default::default(),
        extra_sans: vec!["kobune.example".into(), "192.0.2.1".into()],
        etcd: None,
    };
    ControlPlane::start(options).await.unwrap()
}

async fn config(control_plane: &ControlPlane) -> Config {
    let kubeconfig = Kubeconfig::from_yaml(&control_plane.admin_kubeconfig().unwrap()).unwrap();
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}

/// The same server, but with these credentials.
async fn client(control_plane: &ControlPlane, token: Option<&str>) -> Client {
    let mut config = config(control_plane).await;
    config.auth_info = kube::config::AuthInfo::default();
    config.auth_info.token = token.map(|t| t.to_owned().into());
    Client::try_from(config).unwrap()
}

fn map(name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    ConfigMap { metadata, ..ConfigMap::default() }
}

fn code<T>(result: kube::Result<T>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => panic!("not an API error: {other}"),
        Ok(_) => 200,
    }
}

#[tokio::test]
async fn credentials_decide_who_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = start(&dir).await;
    let list = async |client: Client| {
        code(Api::<ConfigMap>::all(client).list(&ListParams::default()).await)
    };
    let admin = Client::try_from(config(&control_plane).await).unwrap();
    assert_eq!(list(admin).await, 200);
    assert_eq!(list(client(&control_plane, Some("wrong")).await).await, 401);
    let stranger = client(&control_plane, None).await;
    assert_eq!(list(stranger.clone()).await, 401);
    let version = stranger.apiserver_version().await.unwrap();
    assert!(version.git_version.starts_with("v1.33.0+kobune"));
    let ready = http::Request::get("/readyz").body(Vec::new()).unwrap();
    assert_eq!(stranger.request_text(ready).await.unwrap(), "ok");
    control_plane.shutdown().await;
}

/// The same server, with a client certificate of `signer` for `system:masters`.
async fn certified(
    control_plane: &ControlPlane,
    signer: &rcgen::Issuer<'_, rcgen::KeyPair>,
) -> Client {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes-admin");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, signer).unwrap().pem();
    shown(control_plane, &certificate, &key.serialize_pem()).await
}

async fn shown(control_plane: &ControlPlane, certificate: &str, key: &str) -> Client {
    let base64 = |text: &str| {
        serde_json::to_value(ByteString(text.as_bytes().to_vec()))
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut config = config(control_plane).await;
    config.auth_info = kube::config::AuthInfo::default();
    config.auth_info.client_certificate_data = Some(base64(certificate));
    config.auth_info.client_key_data = Some(base64(key).into());
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = start(&dir).await;
    let version = async |client: Client| client.apiserver_version().await.is_ok();
    let key = std::fs::read_to_string(dir.path().join("pki/ca.key")).unwrap();
    let key = rcgen::KeyPair::from_pem(&key).unwrap();
    let ours = rcgen::Issuer::from_ca_cert_pem(control_plane.ca_pem(), key).unwrap();
    assert!(version(certified(&control_plane, &ours).await).await);
    // Of the same name, but with another key.
    let key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::Issuer::from_ca_cert_pem(control_plane.ca_pem(), key).unwrap();
    assert!(!version(certified(&control_plane, &other).await).await);
    control_plane.shutdown().await;
}

#[tokio::test]
async fn tokens_are_for_their_audience_and_their_rights() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = start(&dir).await;
    let admin = Client::new(control_plane.handler(UserInfo::admin()), "default");
    let accounts = Api::<ServiceAccount>::default_namespaced(admin);
    let account = ServiceAccount { metadata: map("build").metadata, ..ServiceAccount::default() };
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let token = async |audience: Option<&str>| {
        let spec = TokenRequestSpec {
            audiences: audience.into_iter().map(str::to_owned).collect(),
            ..TokenRequestSpec::default()
        };
        let asked = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request("build", &PostParams::default(), &asked).await;
        answer.unwrap().status.unwrap().token
    };
    let ask = async |token: &str| {
        let client = client(&control_plane, Some(token)).await;
        code(Api::<ConfigMap>::default_namespaced(client).list(&ListParams::default()).await)
    };
    assert_eq!(ask(&token(None).await).await, 403, "known, and without a role");
    assert_eq!(ask(&token(Some("vault")).await).await, 401, "a token for somebody else");
    accounts.delete("build", &DeleteParams::default()).await.unwrap();
    control_plane.shutdown().await;
}

/// What `kobune token create` and `kobune agent --token` do, step by step.
#[tokio::test]
async fn a_bootstrap_token_brings_a_node_in_and_does_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = start(&dir).await;
    let admin = Client::new(control_plane.handler(UserInfo::admin()), "default");
    let secrets = Api::<Secret>::namespaced(admin.clone(), "kube-system");
    let secret = serde_json::json!({
        "metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        },
    });
    let secret = serde_json::from_value(secret).unwrap();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    let bearer = client(&control_plane, Some("abcdef.0123456789abcdef")).await;
    let list = ListParams::default();
    assert_eq!(code(Api::<Node>::all(bearer.clone()).list(&list).await), 403);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let csr = serde_json::json!({"metadata": {"generateName": "node-csr-"}, "spec": {
        "request": ByteString(pem.into_bytes()), "expirationSeconds": 3600,
        "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
        "usages": ["digital signature", "client auth"],
    }});
    let requests = Api::<CertificateSigningRequest>::all(bearer.clone());
    let csr = requests.create(&PostParams::default(), &serde_json::from_value(csr).unwrap()).await;
    let name = csr.unwrap().metadata.name.unwrap();
    let certificate = |csr: Option<&CertificateSigningRequest>| {
        csr.and_then(|csr| csr.status.as_ref()?.certificate.clone())
    };
    let issued = await_condition(requests, &name, |csr: Option<&_>| certificate(csr).is_some());
    let csr = tokio::time::timeout(Duration::from_secs(60), issued).await.unwrap().unwrap();
    let pem = String::from_utf8(certificate(csr.as_ref()).unwrap().0).unwrap();
    let node = shown(&control_plane, &pem, &key.serialize_pem()).await;
    let nodes = Api::<Node>::all(node.clone());
    let own = |name: &str| Node { metadata: map(name).metadata, ..Node::default() };
    nodes.create(&PostParams::default(), &own("n")).await.unwrap();
    assert_eq!(code(nodes.create(&PostParams::default(), &own("other")).await), 403);
    assert_eq!(code(Api::<Secret>::namespaced(node, "kube-system").list(&list).await), 403);
    // Without its Secret the token is nothing.
    secrets.delete("bootstrap-token-abcdef", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(Api::<Node>::all(bearer).list(&list).await), 401);
    control_plane.shutdown().await;
}

#[tokio::test]
async fn a_cluster_begins_with_its_namespaces_and_its_own_service() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = start(&dir).await;
    let client = Client::new(control_plane.handler(UserInfo::admin()), "default");
    let namespaces = Api::<Namespace>::all(client.clone()).list(&ListParams::default()).await;
    let names: Vec<_> =
        namespaces.unwrap().items.into_iter().filter_map(|n| n.metadata.name).collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let service = Api::<Service>::default_namespaced(client).get("kubernetes").await.unwrap();
    assert_eq!(service.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
    control_plane.shutdown().await;
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = start(&dir).await;
    let client = Client::try_from(config(&control_plane).await).unwrap();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    let made = maps.create(&PostParams::default(), &map("kept")).await.unwrap();
    let before = control_plane.store().revision();
    control_plane.shutdown().await;
    let control_plane = start(&dir).await;
    assert!(control_plane.store().revision() >= before);
    let client = Client::new(control_plane.handler(UserInfo::admin()), "default");
    let kept = Api::<ConfigMap>::default_namespaced(client).get("kept").await.unwrap();
    assert_eq!(kept.metadata.uid, made.metadata.uid);
    control_plane.shutdown().await;
}

#[tokio::test]
async fn watches_share_a_connection_and_end_with_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = start(&dir).await;
    let client = Client::try_from(config(&control_plane).await).unwrap();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    let from = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    // Controllers write ConfigMaps of their own.
    let only = WatchParams::default().fields("metadata.name=a");
    let mut watches = Vec::new();
    for _ in 0..200 {
        watches.push(maps.watch(&only, &from).await.unwrap().boxed());
    }
    maps.create(&PostParams::default(), &map("a")).await.unwrap();
    let patch = Patch::Strategic(serde_json::json!({"data": {"k": "v"}}));
    maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    for watch in &mut watches {
        let mut kinds = String::new();
        for _ in 0..3 {
            kinds.push(match watch.next().await.unwrap().unwrap() {
                WatchEvent::Added(_) => 'a',
                WatchEvent::Modified(_) => 'm',
                WatchEvent::Deleted(_) => 'd',
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(kinds, "amd");
    }
    // Watches do not hold the server up.
    let stopped = tokio::time::timeout(Duration::from_secs(4), control_plane.shutdown()).await;
    assert!(stopped.is_ok(), "the server did not drain");
    for watch in &mut watches {
        assert!(!matches!(watch.next().await, Some(Ok(_))));
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = start(&dir).await;
    let again = kobune_controlplane::store::Store::open(&dir.path().join("store.redb"));
    let error = again.err().unwrap().to_string();
    assert!(error.contains("store.redb"), "{error}");
    let address: SocketAddr = control_plane.address();
    assert_eq!(address.ip(), LOCALHOST);
    control_plane.shutdown().await;
}

/// The window of events begins anew at a start, so pages of before are gone; the rest may be had as it is now.
#[tokio::test]
async fn a_list_that_expired_can_be_ended_as_it_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let maps = |control_plane: &ControlPlane| {
        Api::<ConfigMap>::default_namespaced(Client::new(
            control_plane.handler(UserInfo::admin()),
            "default",
        ))
    };
    let control_plane = start(&dir).await;
    for name in ["a", "b"] {
        maps(&control_plane).create(&PostParams::default(), &map(name)).await.unwrap();
    }
    let page = ListParams::default().limit(1);
    let first = maps(&control_plane).list(&page).await.unwrap();
    assert_eq!(first.items[0].metadata.name.as_deref(), Some("a"));
    let token = first.metadata.continue_.unwrap();
    maps(&control_plane).create(&PostParams::default(), &map("b2")).await.unwrap();
    control_plane.shutdown().await;
    let control_plane = start(&dir).await;
    let next = page.clone().continue_token(&token);
    let Err(kube::Error::Api(expired)) = maps(&control_plane).list(&next).await else {
        panic!("the page is still there")
    };
    assert_eq!((expired.code, expired.reason.as_str()), (410, "Expired"));
    let token = expired.metadata.and_then(|metadata| metadata.continue_).unwrap();
    let rest = ListParams::default().continue_token(&token);
    let rest = maps(&control_plane).list(&rest).await.unwrap();
    let names = rest.items.iter().filter_map(|m| m.metadata.name.as_deref());
    // The cluster's CA comes to the namespace some time.
    let names: Vec<_> = names.filter(|name| !name.starts_with("kube-")).collect();
    assert_eq!(names, ["b", "b2"]);
    control_plane.shutdown().await;
}

/// Straight from the server while others write; what comes out of it is the same cluster, later.
#[tokio::test]
async fn a_backup_of_a_busy_server_is_one_moment_of_it() {
    use kobune_controlplane::store::backup;
    let dir = tempfile::tempdir().unwrap();
    let control_plane = start(&dir).await;
    let client = Client::try_from(config(&control_plane).await).unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let busy = tokio::spawn(async move {
        for n in 0..300 {
            maps.create(&PostParams::default(), &map(&format!("m{n}"))).await.unwrap();
        }
    });
    let mut written = Vec::new();
    while written.is_empty() || !busy.is_finished() {
        let request = http::Request::get("/kobune/backup").body(Vec::new()).unwrap();
        written = client.request_text(request).await.unwrap().into_bytes();
    }
    busy.await.unwrap();
    let newest = control_plane.store().revision();
    let ca = control_plane.ca_pem().to_owned();
    control_plane.shutdown().await;
    let other = tempfile::tempdir().unwrap();
    let restored = backup::restore(&written[..], other.path()).unwrap();
    for key in ["pki/ca.key", "pki/ca.crt"] {
        std::fs::create_dir_all(other.path().join("pki")).unwrap();
        std::fs::copy(dir.path().join(key), other.path().join(key)).unwrap();
    }
    let again = start(&other).await;
    assert_eq!(again.ca_pem(), ca);
    assert!(again.store().revision() > newest && restored.revision <= newest);
    let client = Client::try_from(config(&again).await).unwrap();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    let mut found: Vec<u32> = Vec::new();
    for map in maps.list(&ListParams::default()).await.unwrap() {
        let name = map.metadata.name.unwrap();
        found.extend(name.strip_prefix('m').and_then(|n| n.parse::<u32>().ok()));
    }
    found.sort_unstable();
    // One after the other they were written: none is missing in the middle.
    assert_eq!(found, (0..u32::try_from(found.len()).unwrap()).collect::<Vec<_>>());
    // Whoever watched the server before the restore lists again.
    let mut events =
        Box::pin(maps.watch(&WatchParams::default(), &newest.to_string()).await.unwrap());
    match events.next().await.unwrap() {
        Ok(WatchEvent::Error(status)) => assert_eq!(status.code, 410),
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 410),
        other => panic!("{other:?}"),
    }
    again.shutdown().await;
}
