//! Collecting what is wrong with an object, worded as upstream's `field.Error`.

use std::fmt::{Display, Write};

use http::StatusCode;

use super::Kind;
use crate::status::{ApiError, Cause};

/// The place of a value: `spec.containers[0].name`.
#[derive(Debug, Clone)]
pub(crate) struct Path(String);

impl Path {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.into()) } else { Self(format!("{}.{name}", self.0)) }
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub(crate) fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A refused value as it stands in a message: strings quoted, everything else plain.
pub(crate) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for str {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}

impl Shown for String {
    fn shown(&self) -> String {
        self.as_str().shown()
    }
}

macro_rules! plain {
    ($($ty:ty),*) => {$(impl Shown for $ty {
        fn shown(&self) -> String {
            self.to_string()
        }
    })*};
}
plain!(i32, i64, usize, bool);

impl Shown for std::collections::BTreeMap<String, String> {
    fn shown(&self) -> String {
        let mut text = String::from("map[string]string{");
        for (index, (key, value)) in self.iter().enumerate() {
            let _ = write!(text, "{}{key:?}:{value:?}", if index > 0 { ", " } else { "" });
        }
        text + "}"
    }
}

impl Shown for k8s_openapi::apimachinery::pkg::util::intstr::IntOrString {
    fn shown(&self) -> String {
        match self {
            Self::Int(number) => number.to_string(),
            Self::String(text) => text.shown(),
        }
    }
}

impl<T: Shown + ?Sized> Shown for &T {
    fn shown(&self) -> String {
        (**self).shown()
    }
}

/// Everything wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<Cause>);

impl Errors {
    pub(crate) fn into_causes(self) -> Vec<Cause> {
        self.0
    }

    fn add(&mut self, path: &Path, reason: &str, message: String) {
        self.0.push(Cause { reason: reason.into(), message, field: path.0.clone() });
    }

    pub(crate) fn required(&mut self, path: &Path, detail: &str) {
        let colon = if detail.is_empty() { "" } else { ": " };
        self.add(path, "FieldValueRequired", format!("Required value{colon}{detail}"));
    }

    pub(crate) fn invalid(&mut self, path: &Path, value: impl Shown, detail: &str) {
        let text = format!("Invalid value: {}: {detail}", value.shown());
        self.add(path, "FieldValueInvalid", text);
    }

    /// One `invalid` for each of `details`.
    pub(crate) fn all_invalid(&mut self, path: &Path, value: impl Shown, details: Vec<String>) {
        for detail in details {
            self.invalid(path, &value, &detail);
        }
    }

    pub(crate) fn duplicate(&mut self, path: &Path, value: impl Shown) {
        self.add(path, "FieldValueDuplicate", format!("Duplicate value: {}", value.shown()));
    }

    pub(crate) fn not_found(&mut self, path: &Path, value: impl Shown) {
        self.add(path, "FieldValueNotFound", format!("Not found: {}", value.shown()));
    }

    pub(crate) fn not_supported(&mut self, path: &Path, value: impl Shown, supported: &[&str]) {
        let mut quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        quoted.sort();
        let list = quoted.join(", ");
        let text = format!("Unsupported value: {}: supported values: {list}", value.shown());
        self.add(path, "FieldValueNotSupported", text);
    }

    pub(crate) fn forbidden(&mut self, path: &Path, detail: &str) {
        self.add(path, "FieldValueForbidden", format!("Forbidden: {detail}"));
    }

    pub(crate) fn too_long(&mut self, path: &Path, max: usize) {
        self.add(path, "FieldValueTooLong", format!("Too long: may not be more than {max} bytes"));
    }

    pub(crate) fn too_many(&mut self, path: &Path, count: usize, max: usize) {
        let text = format!("Too many: {count}: must have at most {max} items");
        self.add(path, "FieldValueTooMany", text);
    }

    pub(crate) fn port(&mut self, path: &Path, port: i32) {
        if !(1..=65535).contains(&port) {
            self.invalid(path, port, "must be between 1 and 65535, inclusive");
        }
    }

    /// `value` must be one of `supported`; empty counts as missing.
    pub(crate) fn one_of(&mut self, path: &Path, value: Option<&str>, supported: &[&str]) {
        match value {
            None | Some("") => self.required(path, ""),
            Some(value) if supported.contains(&value) => {}
            Some(value) => self.not_supported(path, value, supported),
        }
    }

    /// Like [`Errors::one_of`], where absence is fine.
    pub(crate) fn optional_one_of(&mut self, path: &Path, value: Option<&str>, supported: &[&str]) {
        if value.is_some_and(|v| !v.is_empty()) {
            self.one_of(path, value, supported);
        }
    }

    pub(crate) fn not_negative(&mut self, path: &Path, value: Option<i64>) {
        if let Some(value) = value
            && value < 0
        {
            self.invalid(path, value, "must be greater than or equal to 0");
        }
    }
}

/// `Deployment.apps "x" is invalid: spec.replicas: Invalid value: …`, 422.
pub fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> ApiError {
    let mut texts: Vec<String> =
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
    texts.dedup();
    let list = match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let full = if kind.group.is_empty() {
        kind.kind.to_owned()
    } else {
        format!("{}.{}", kind.kind, kind.group)
    };
    let text = format!("{full} {name:?} is invalid: {list}");
    let mut error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text);
    error.name = name.into();
    error.group = kind.group.into();
    error.kind = kind.kind.into();
    error.causes = causes;
    error
}
