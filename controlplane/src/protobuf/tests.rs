//! Bodies built by hand from the format's rules, and hostile ones.

use serde_json::{Value, json};

use super::{DecodeError, MAGIC, decode};

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn number(field: u64, n: i64) -> Vec<u8> {
    [varint(field << 3), varint(n as u64)].concat()
}

fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version), bytes(2, kind)].concat();
    [MAGIC.to_vec(), bytes(1, type_meta), bytes(2, raw), bytes(3, ""), bytes(4, "")].concat()
}

#[test]
fn a_pod_with_every_shape_of_field() {
    let meta = [
        bytes(1, "p"),
        bytes(2, ""),
        number(7, 0),
        bytes(8, []),
        bytes(9, [number(1, 1_700_000_000), number(2, 5)].concat()),
        number(10, 0),
        bytes(11, [bytes(1, "app"), bytes(2, "web")].concat()),
        bytes(11, [bytes(1, "empty")].concat()),
        bytes(14, "a/b"),
        bytes(14, "c/d"),
    ]
    .concat();
    let limits = [bytes(1, "cpu"), bytes(2, bytes(1, "500m"))].concat();
    let get =
        [bytes(1, "/healthz"), bytes(2, [number(1, 1), number(2, 0), bytes(3, "http")].concat())]
            .concat();
    let probe = [bytes(1, bytes(2, get)), number(2, 0), number(3, 2)].concat();
    let container = [
        bytes(1, "c"),
        bytes(2, "img"),
        bytes(3, "sh"),
        bytes(3, ""),
        bytes(6, [bytes(1, ""), number(2, 0), number(3, 8080), bytes(4, "TCP")].concat()),
        bytes(8, bytes(1, limits)),
        bytes(10, probe),
        bytes(13, ""),
        number(16, 0),
        number(18, 1),
    ]
    .concat();
    let volume = [bytes(1, "v"), bytes(2, bytes(2, []))].concat();
    let secret = [bytes(1, "s"), bytes(2, bytes(6, bytes(1, "x")))].concat();
    let spec = [
        bytes(1, volume),
        bytes(1, secret),
        bytes(2, container),
        number(4, 0),
        number(11, 0),
        number(999, 7),
    ]
    .concat();
    let pod = [bytes(1, meta), bytes(2, spec), bytes(3, [])].concat();
    let expected = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "deletionTimestamp": "2023-11-14T22:13:20Z",
            "deletionGracePeriodSeconds": 0,
            "labels": {"app": "web", "empty": ""},
            "finalizers": ["a/b", "c/d"],
        },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "volumes": [
                {"name": "v", "emptyDir": {}},
                {"name": "s", "secret": {"secretName": "x"}},
            ],
            "containers": [{
                "name": "c",
                "image": "img",
                "command": ["sh", ""],
                "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {
                    "httpGet": {"path": "/healthz", "port": "http"},
                    "timeoutSeconds": 2,
                },
                "tty": true,
            }],
        },
    });
    assert_eq!(decode(&body("v1", "Pod", &pod)), Ok(expected));
}

#[test]
fn other_kinds_and_envelopes() {
    let secret = bytes(2, [bytes(1, "k"), bytes(2, [0, 255])].concat());
    let decoded = decode(&body("v1", "Secret", &secret)).expect("secret");
    assert_eq!(decoded["data"], json!({"k": "AP8="}));
    let lease = bytes(2, [bytes(1, "h"), bytes(4, number(1, 1))].concat());
    let decoded = decode(&body("coordination.k8s.io/v1", "Lease", &lease)).expect("lease");
    assert_eq!(decoded["spec"]["renewTime"], "1970-01-01T00:00:01.000000Z");
    let options = [number(1, 0), bytes(4, "Background")].concat();
    let expected = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background"});
    assert_eq!(decode(&body("apps/v1", "DeleteOptions", &options)), Ok(expected));
    let inner = [MAGIC.to_vec(), bytes(2, "{\"a\":1}"), bytes(4, "application/json")].concat();
    assert_eq!(decode(&inner), Ok(json!({"a": 1})));
}

#[test]
fn refuses_what_is_none() {
    assert_eq!(decode(b"{}"), Err(DecodeError::NoEnvelope));
    let unknown = decode(&body("x/v1", "Boat", b"")).expect_err("no such kind");
    assert_eq!(
        unknown.to_string(),
        "decode protobuf: no kind \"Boat\" is registered for version \"x/v1\""
    );
    for raw in [
        bytes(1, bytes(1, [0xff, 0xfe])),
        bytes(1, number(1, 1)),
        vec![0x0a, 0x7f],
        vec![0x0a],
        vec![0x0b],
        vec![0xff; 11],
    ] {
        let error = decode(&body("v1", "Pod", &raw)).expect_err("malformed");
        assert!(matches!(error, DecodeError::Malformed(_)), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn never_panics(raw in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        for kind in ["Pod", "Service", "Event"] {
            if let Ok(value) = decode(&body("v1", kind, &raw)) {
                proptest::prop_assert!(matches!(value, Value::Object(_)));
            }
        }
    }
}
