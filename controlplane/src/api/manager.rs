//! Which field manager a request writes as: what it says, or the program that sent it. Pure.

use http::{HeaderMap, header};

use super::request::{Query, Verb};
use super::{UserInfo, errors};
use crate::status::ApiError;

/// In bytes, as upstream.
const MAX: usize = 128;

/// For writes that name no manager.
pub(crate) fn fallback(user: &UserInfo, headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let program = agent.split('/').next().unwrap_or_default();
    let program: String = program.chars().filter(|c| !c.is_control()).take(MAX).collect();
    match program.as_str() {
        // The node agent of this process speaks without headers.
        "" if user.groups.iter().any(|g| g == "system:nodes") => "kubelet".into(),
        "" => "unknown".into(),
        _ => program,
    }
}

/// Refuses `fieldManager` and `force` where they make no sense.
pub(crate) fn check(query: &Query, verb: Verb, apply: bool) -> Result<(), ApiError> {
    let kind = match verb {
        Verb::Create => "CreateOptions",
        Verb::Update => "UpdateOptions",
        _ => "PatchOptions",
    };
    let refuse = |reason: &str, field: &str, why: String| {
        Err(errors::options_invalid(kind, errors::cause(reason, field, why)))
    };
    let manager = query.text("fieldManager").unwrap_or_default();
    if apply && manager.is_empty() {
        let why = "Required value: is required for apply patch".into();
        return refuse("FieldValueRequired", "fieldManager", why);
    }
    if verb == Verb::Patch && !apply && query.get("force").is_some() {
        let why = "Forbidden: may not be specified for non-apply patch".into();
        return refuse("FieldValueForbidden", "force", why);
    }
    if manager.len() > MAX {
        let why = format!("Too long: may not be more than {MAX} bytes");
        return refuse("FieldValueTooLong", "fieldManager", why);
    }
    if manager.chars().any(char::is_control) {
        let why = format!("Invalid value: {manager:?}: should only contain printable characters");
        return refuse("FieldValueInvalid", "fieldManager", why);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_are_what_they_say_or_what_sent_them() {
        let by = |user: UserInfo, agent: &str| {
            let mut headers = HeaderMap::new();
            if !agent.is_empty() {
                headers.insert(header::USER_AGENT, agent.parse().unwrap());
            }
            fallback(&user, &headers)
        };
        let node = UserInfo::new("system:node:a", &["system:nodes"]);
        assert_eq!(by(UserInfo::admin(), "kubectl/v1.33.0 (linux/amd64)"), "kubectl");
        assert_eq!(by(UserInfo::admin(), ""), "unknown");
        assert_eq!(by(node, ""), "kubelet");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let causes = |query: &str, verb, apply| match check(&Query::parse(query), verb, apply) {
            Ok(()) => String::new(),
            Err(error) => format!("{} {}", error.code.as_u16(), error.message),
        };
        let required = "422 PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        assert_eq!(causes("", Verb::Patch, true), required);
        assert_eq!(causes("fieldManager=a&force=true", Verb::Patch, true), "");
        assert!(causes("force=true", Verb::Patch, false).contains("force: Forbidden"));
        assert!(
            causes(&format!("fieldManager={}", "x".repeat(129)), Verb::Create, false)
                .starts_with("422")
        );
        assert!(causes("fieldManager=a%0Ab", Verb::Update, false).contains("printable"));
    }
}
