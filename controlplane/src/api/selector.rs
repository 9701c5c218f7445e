//! What lists and watches select by: namespace, labels, fields. Pure; the grammar of label selectors is the kinds'.

use super::errors::bad_request;
use crate::kinds::{Kind, Selector};
use crate::object::Object;
use crate::status::ApiError;

/// Everything that a list or a watch filters by.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Selectors {
    /// Empty: all namespaces.
    pub(crate) namespace: String,
    pub(crate) labels: Selector,
    pub(crate) fields: Vec<FieldRequirement>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FieldRequirement {
    pub(crate) label: String,
    pub(crate) value: String,
    pub(crate) equal: bool,
}

impl Selectors {
    pub(crate) fn parse(
        kind: &Kind,
        namespace: &str,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Self, ApiError> {
        let labels = labels.map(Selector::parse).transpose();
        let labels = labels.map_err(|e| bad_request(e.to_string()))?.unwrap_or_default();
        let fields = fields.map(parse_fields).transpose()?.unwrap_or_default();
        for field in &fields {
            let known = matches!(field.label.as_str(), "metadata.name" | "metadata.namespace")
                || kind.strategy.field_labels().contains(&field.label.as_str());
            if !known {
                return Err(bad_request(format!("field label not supported: {}", field.label)));
            }
        }
        Ok(Self { namespace: namespace.into(), labels, fields })
    }

    /// Narrows to one name.
    pub(crate) fn only(&mut self, name: &str) {
        let label = "metadata.name".into();
        self.fields.push(FieldRequirement { label, value: name.into(), equal: true });
    }

    /// True when nothing but the namespace is selected by.
    pub(crate) fn everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn match_object(&self, kind: &Kind, object: &Object) -> bool {
        let meta = &object.meta;
        (self.namespace.is_empty() || self.namespace == meta.namespace)
            && self.labels.matches(&meta.labels)
            && self.match_fields(kind, object)
    }

    fn match_fields(&self, kind: &Kind, object: &Object) -> bool {
        let meta = &object.meta;
        // The tree is only built for labels that are not in the metadata.
        let mut tree = None;
        self.fields.iter().all(|field| {
            let found = match field.label.as_str() {
                "metadata.name" => Some(meta.name.clone()),
                "metadata.namespace" => Some(meta.namespace.clone()),
                label => kind.strategy.field(tree.get_or_insert_with(|| object.value()), label),
            };
            (found.unwrap_or_default() == field.value) == field.equal
        })
    }
}

/// `a=b,c!=d`; a backslash keeps the character after it (`,` `=` `\`).
pub(crate) fn parse_fields(text: &str) -> Result<Vec<FieldRequirement>, ApiError> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let part = parts.last_mut().expect("never empty");
        match c {
            ',' => parts.push(String::new()),
            // Escapes stay until the operator has been found.
            '\\' => part.extend([Some('\\'), chars.next()].into_iter().flatten()),
            c => part.push(c),
        }
    }
    parts.iter().filter(|p| !p.trim().is_empty()).map(|p| field(p)).collect()
}

fn field(part: &str) -> Result<FieldRequirement, ApiError> {
    let wrong = || bad_request(format!("invalid selector: {part:?}; can't understand {part:?}"));
    let (at, _) = part.char_indices().find(|(_, c)| "=!".contains(*c)).ok_or_else(wrong)?;
    let (label, rest) = part.split_at(at);
    let (equal, value) = match rest {
        rest if rest.starts_with("==") => (true, &rest[2..]),
        rest if rest.starts_with("!=") => (false, &rest[2..]),
        rest if rest.starts_with('=') => (true, &rest[1..]),
        _ => return Err(wrong()),
    };
    let mut plain = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    Ok(FieldRequirement { label: label.trim().into(), value: plain, equal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_selectors() {
        let parsed = parse_fields("spec.nodeName=a,status.phase!=Failed,x==1\\,2").unwrap();
        let told: Vec<_> =
            parsed.iter().map(|f| (f.label.as_str(), f.equal, f.value.as_str())).collect();
        assert_eq!(
            told,
            [("spec.nodeName", true, "a"), ("status.phase", false, "Failed"), ("x", true, "1,2")]
        );
        assert_eq!(parse_fields("spec.nodeName=").unwrap()[0].value, "");
        assert!(parse_fields("nonsense").is_err());
    }
}
