//! Requests for certificates: approved where a node asks for its own, signed when approved, deleted when they are old.

mod approve;
mod clean;
mod sign;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

pub use approve::Approving;
pub use clean::Cleaning;
pub use sign::Signing;

use crate::admission::certificates::{CLIENT, NODE_CLIENT, NODE_SERVING};
use crate::auth::request::{Request, Usages};

const NODE_PREFIX: &str = "system:node:";
const NODES: &str = "system:nodes";
const SIGNATURE: &str = "digital signature";
const ENCIPHERMENT: &str = "key encipherment";

fn has(csr: &CertificateSigningRequest, condition: &str) -> bool {
    let status = csr.status.iter().flat_map(|status| status.conditions.iter().flatten());
    status.into_iter().any(|c| c.type_ == condition)
}

fn is_issued(csr: &CertificateSigningRequest) -> bool {
    let certificate = csr.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.is_some_and(|pem| !pem.0.is_empty())
}

/// What the certificate may be used for; the error says which rule of the signer the request breaks. None: no signer of
/// ours.
fn usages(csr: &CertificateSigningRequest, request: &Request) -> Option<Result<Usages, String>> {
    let listed: Vec<&str> = csr.spec.usages.iter().flatten().map(String::as_str).collect();
    Some(match csr.spec.signer_name.as_str() {
        CLIENT => client(&listed),
        NODE_CLIENT => node(request).and_then(|()| node_client(request, &listed)),
        NODE_SERVING => node(request).and_then(|()| node_serving(request, &listed)),
        _ => return None,
    })
}

fn client(listed: &[&str]) -> Result<Usages, String> {
    const KNOWN: [&str; 3] = [SIGNATURE, ENCIPHERMENT, "client auth"];
    if !listed.contains(&"client auth") || listed.iter().any(|usage| !KNOWN.contains(usage)) {
        return Err(format!("usages must contain \"client auth\", and be of {KNOWN:?}"));
    }
    Ok(Usages {
        signature: listed.contains(&SIGNATURE),
        encipherment: listed.contains(&ENCIPHERMENT),
        client: true,
        server: false,
    })
}

fn node(request: &Request) -> Result<(), String> {
    if request.organizations != [NODES] {
        return Err("subject organization is not system:nodes".into());
    }
    match request.common_name.strip_prefix(NODE_PREFIX) {
        None | Some("") => Err("subject common name does not begin with system:node: ".into()),
        Some(_) => Ok(()),
    }
}

fn node_client(request: &Request, listed: &[&str]) -> Result<Usages, String> {
    if !request.dns_names.is_empty() || !request.addresses.is_empty() || request.other_names > 0 {
        return Err("DNS, IP, email and URI subjectAltNames are not allowed".into());
    }
    let encipherment = exactly(listed, "client auth")?;
    Ok(Usages { signature: true, encipherment, client: true, server: false })
}

fn node_serving(request: &Request, listed: &[&str]) -> Result<Usages, String> {
    if request.dns_names.is_empty() && request.addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required".into());
    }
    if request.other_names > 0 {
        return Err("email and URI subjectAltNames are not allowed".into());
    }
    let encipherment = exactly(listed, "server auth")?;
    Ok(Usages { signature: true, encipherment, client: false, server: true })
}

/// Whether the key enciphers, too: RSA keys do.
fn exactly(listed: &[&str], purpose: &str) -> Result<bool, String> {
    let encipherment = listed.contains(&ENCIPHERMENT);
    let wanted = listed.contains(&SIGNATURE) && listed.contains(&purpose);
    match wanted && listed.len() == 2 + usize::from(encipherment) {
        true => Ok(encipherment),
        false => Err(format!(
            "usages must be {SIGNATURE:?} and {purpose:?}, with or without {ENCIPHERMENT:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::admission::certificates::REQUESTS;
    use crate::auth::signer::tests::{request, signer};
    use crate::controllers::runner::Controller;
    use crate::controllers::world::World;
    use crate::object::Key;
    use crate::reader::Reader;

    const CLIENT_USAGES: [&str; 2] = [SIGNATURE, "client auth"];

    fn csr(pem: &str, signer: &str, usages: &[&str], user: &str, groups: &[&str]) -> Value {
        let request = k8s_openapi::ByteString(pem.as_bytes().to_vec());
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": "c"},
            "spec": {"request": request, "signerName": signer, "usages": usages,
                "username": user, "groups": groups}})
    }

    fn node_csr(name: &str, user: &str, groups: &[&str]) -> Value {
        let pem = request(&format!("system:node:{name}"), NODES, &[]);
        csr(&pem, NODE_CLIENT, &CLIENT_USAGES, user, groups)
    }

    fn world(csr: Value) -> World {
        let (roles, bindings) = crate::auth::policy::defaults();
        let mut world = World::with([(REQUESTS, csr)]);
        for role in roles {
            world.add("clusterroles.rbac.authorization.k8s.io", role);
        }
        for binding in bindings {
            world.add("clusterrolebindings.rbac.authorization.k8s.io", binding);
        }
        world
    }

    fn settle(world: &mut World, controller: &dyn Controller) {
        let key = Key::new(REQUESTS, "", "c");
        let outcome = controller.reconcile(world, &key, world.now);
        for act in outcome.batches.into_iter().flatten() {
            world.apply(act.change).unwrap();
        }
    }

    fn status(world: &World) -> Value {
        world.value(REQUESTS, "", "c")["status"].clone()
    }

    const BOOTSTRAPPERS: [&str; 2] =
        ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token"];

    #[test]
    fn nodes_that_join_or_renew_are_approved() {
        let approved = |csr: Value| {
            let mut world = world(csr);
            settle(&mut world, &Approving);
            let first = status(&world);
            settle(&mut world, &Approving);
            assert_eq!(status(&world), first, "once is enough");
            first["conditions"][0]["type"] == "Approved"
        };
        assert!(approved(node_csr("n", "system:bootstrap:abcdef", &BOOTSTRAPPERS)));
        assert!(approved(node_csr("n", "system:node:n", &[NODES])));
        assert!(!approved(node_csr("other", "system:node:n", &[NODES])), "of another node");
        assert!(!approved(node_csr("n", "jane", &["system:authenticated"])));
        let person = request("jane", "people", &[]);
        assert!(!approved(csr(
            &person,
            NODE_CLIENT,
            &CLIENT_USAGES,
            "system:bootstrap:abcdef",
            &BOOTSTRAPPERS
        )));
        let node = request("system:node:n", NODES, &[]);
        assert!(!approved(csr(
            &node,
            CLIENT,
            &CLIENT_USAGES,
            "system:bootstrap:abcdef",
            &BOOTSTRAPPERS
        )));
        let serving = request("system:node:n", NODES, &["192.0.2.1"]);
        assert!(!approved(csr(
            &serving,
            NODE_SERVING,
            &[SIGNATURE, "server auth"],
            "system:node:n",
            &[NODES]
        )));
    }

    #[test]
    fn what_is_approved_is_signed() {
        let (signer, _) = signer();
        let signing = Signing::new(std::sync::Arc::new(signer));
        let mut world = world(node_csr("n", "system:bootstrap:abcdef", &BOOTSTRAPPERS));
        settle(&mut world, &signing);
        assert!(status(&world)["certificate"].is_null(), "not yet approved");
        settle(&mut world, &Approving);
        settle(&mut world, &signing);
        let csr: CertificateSigningRequest =
            serde_json::from_value(world.value(REQUESTS, "", "c")).unwrap();
        let pem = csr.status.unwrap().certificate.unwrap().0;
        crate::auth::request::check_chain(&pem).unwrap();
    }

    #[test]
    fn each_signer_has_its_rules() {
        let fails = |csr: Value| {
            let (signer, _) = signer();
            let mut world = world(csr);
            world.edit(REQUESTS, "", "c", |csr| {
                csr["status"]["conditions"] = json!([{"type": "Approved", "status": "True"}]);
            });
            settle(&mut world, &Signing::new(std::sync::Arc::new(signer)));
            let status = status(&world);
            let failed = status["conditions"][1]["type"] == "Failed";
            assert_ne!(failed, status["certificate"].is_string(), "{status}");
            failed
        };
        let person = request("jane", "people", &[]);
        let node = request("system:node:n", NODES, &[]);
        let named = request("system:node:n", NODES, &["n.example"]);
        let serving = [SIGNATURE, ENCIPHERMENT, "server auth"];
        for (pem, signer, usages, good) in [
            (&person, CLIENT, &CLIENT_USAGES[..], true),
            (&person, CLIENT, &["client auth"], true),
            (&person, CLIENT, &[SIGNATURE], false),
            (&person, CLIENT, &["client auth", "server auth"], false),
            (&person, NODE_CLIENT, &CLIENT_USAGES, false),
            (&node, NODE_CLIENT, &CLIENT_USAGES, true),
            (&named, NODE_CLIENT, &CLIENT_USAGES, false),
            (&node, NODE_CLIENT, &serving, false),
            (&named, NODE_SERVING, &serving, true),
            (&node, NODE_SERVING, &serving, false),
            (&named, NODE_SERVING, &CLIENT_USAGES, false),
        ] {
            assert_eq!(fails(csr(pem, signer, usages, "u", &[])), !good, "{signer} {usages:?}");
        }
    }

    #[test]
    fn old_requests_go() {
        let hours = |n: u64| std::time::Duration::from_secs(3600 * n);
        let gone_after = |conditions: Value, hour: u64| {
            let mut world = world(node_csr("n", "u", &[]));
            let created = world.now;
            world.edit(REQUESTS, "", "c", |csr| {
                csr["metadata"]["creationTimestamp"] = json!(created.to_string());
                csr["status"]["conditions"] = conditions;
            });
            world.now += hours(hour) - std::time::Duration::from_secs(1);
            settle(&mut world, &Cleaning);
            assert!(world.get(REQUESTS, "", "c").is_some(), "too early");
            world.now += std::time::Duration::from_secs(1);
            settle(&mut world, &Cleaning);
            world.get(REQUESTS, "", "c").is_none()
        };
        assert!(gone_after(json!([]), 24));
        for name in ["Approved", "Denied", "Failed"] {
            let at = World::with([]).now.to_string();
            assert!(
                gone_after(json!([{"type": name, "status": "True", "lastUpdateTime": at}]), 1),
                "{name}"
            );
        }
    }
}
