//! What a container's environment is made of, case by case.

use super::*;
use crate::container::resources::HostSize;
use k8s_openapi::api::core::v1::Pod;

fn pod(links: bool) -> Pod {
    let text = format!(
        r#"{{"metadata":{{"name":"p","namespace":"ns","uid":"u","labels":{{"app":"web"}}}},
        "spec":{{"containers":[],"nodeName":"node","enableServiceLinks":{links}}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn services() -> Vec<Service> {
    let one = |namespace: &str, name: &str, ip: &str| {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"{namespace}"}},"spec":{{"clusterIP":"{ip}",
            "ports":[{{"name":"http-web","port":80,"protocol":"TCP"}}]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    };
    vec![
        one("default", "kubernetes", "10.96.0.1"),
        one("ns", "my-db", "10.96.0.9"),
        one("ns", "headless", "None"),
        one("other", "far", "10.96.0.7"),
    ]
}

fn sources() -> Sources {
    let mut sources = Sources::default();
    let map = serde_json::from_str(r#"{"data":{"k":"v","bad=key":"x"}}"#).unwrap();
    let secret = serde_json::from_str(r#"{"data":{"s":"aGk="}}"#).unwrap();
    sources.config_maps.insert("m".into(), Some(map));
    sources.secrets.insert("s".into(), Some(secret));
    sources
}

fn of(container: &str, links: bool) -> Result<BTreeMap<String, String>, String> {
    let pod = pod(links);
    let facts = PodFacts {
        pod: &pod,
        pod_ip: Some("10.244.0.5".into()),
        host_ip: "1.2.3.4".into(),
        hostname: "p".into(),
        host: HostSize { cpu_millis: 2000, memory_bytes: 1 << 30 },
    };
    let container: Container = serde_json::from_str(container).unwrap();
    let image = ["PATH=/img".to_owned(), "A=image".to_owned()];
    build(&container, &image, &facts, &sources(), &services())
        .map(|list| list.into_iter().collect())
        .map_err(|error| format!("{}: {error}", error.reason()))
}

#[test]
fn sources_of_values() {
    let env = of(
        r#"{"name":"c","resources":{"limits":{"cpu":"500m"}},
        "envFrom":[{"prefix":"P_","configMapRef":{"name":"m"}},{"secretRef":{"name":"s"}}],
        "env":[{"name":"A","value":"own"},{"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},
          {"name":"L","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['app']"}}},
          {"name":"CPU","valueFrom":{"resourceFieldRef":{"resource":"limits.cpu","divisor":"1m"}}},
          {"name":"MEM","valueFrom":{"resourceFieldRef":{"resource":"limits.memory","divisor":"1Mi"}}},
          {"name":"K","valueFrom":{"configMapKeyRef":{"name":"m","key":"k"}}},
          {"name":"S","valueFrom":{"secretKeyRef":{"name":"s","key":"s"}}},
          {"name":"NONE","valueFrom":{"secretKeyRef":{"name":"gone","key":"s","optional":true}}},
          {"name":"URL","value":"http://$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT)/$(K)$$(K)$(NOPE)"}]}"#,
        true,
    )
    .unwrap();
    let expected = [
        ("PATH", "/img"),
        ("HOSTNAME", "p"),
        ("A", "own"),
        ("P_k", "v"),
        ("s", "hi"),
        ("IP", "10.244.0.5"),
        ("L", "web"),
        ("CPU", "500"),
        ("MEM", "1024"),
        ("K", "v"),
        ("S", "hi"),
        ("URL", "http://10.96.0.9:80/v$(K)$(NOPE)"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("MY_DB_SERVICE_PORT_HTTP_WEB", "80"),
        ("MY_DB_PORT_80_TCP", "tcp://10.96.0.9:80"),
        ("MY_DB_PORT_80_TCP_PROTO", "tcp"),
    ];
    for (name, value) in expected {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
    }
    for name in ["NONE", "P_bad=key", "FAR_SERVICE_HOST", "HEADLESS_SERVICE_HOST"] {
        assert_eq!(env.get(name), None, "{name}");
    }
}

#[test]
fn without_links_only_the_api_is_told_of() {
    let env = of(r#"{"name":"c"}"#, false).unwrap();
    assert!(env.contains_key("KUBERNETES_SERVICE_HOST"));
    assert!(!env.contains_key("MY_DB_SERVICE_HOST"));
}

#[test]
fn what_is_missing_is_a_config_error() {
    let env =
        |source: &str| format!(r#"{{"name":"c","env":[{{"name":"A","valueFrom":{source}}}]}}"#);
    let error = of(&env(r#"{"configMapKeyRef":{"name":"gone","key":"k"}}"#), true).unwrap_err();
    assert_eq!(error, "CreateContainerConfigError: configmap \"gone\" not found");
    let error = of(&env(r#"{"configMapKeyRef":{"name":"m","key":"x"}}"#), true).unwrap_err();
    assert_eq!(error, "CreateContainerConfigError: couldn't find key x in ConfigMap ns/m");
}

#[test]
fn expansion() {
    let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
    let table = [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("$", "$"),
        ("$$", "$"),
        ("é$(A)é", "é1é"),
        ("$()", "$()"),
    ];
    for (text, expected) in table {
        assert_eq!(expand(text, lookup), expected, "{text:?}");
    }
}

proptest::proptest! {
    #[test]
    fn text_without_references_stays(text in "[^$]*") {
        proptest::prop_assert_eq!(expand(&text, |_| Some("x".into())), text);
    }

    #[test]
    fn expansion_never_panics(text in "[$()aé]{0,12}") {
        expand(&text, |name| (name == "a").then(String::new));
    }
}
