//! authentication.k8s.io/v1 and authorization.k8s.io/v1: questions that are posted and answered, never stored.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use serde_json::Value;

use super::{Column, Kind, Strategy, table, typed};
use crate::object::Object;

pub(super) const AUTHENTICATION: &str = "authentication.k8s.io";
pub(super) const AUTHORIZATION: &str = "authorization.k8s.io";

macro_rules! review {
    ($constant:ident, $ty:ident, $group:expr, $plural:literal, $singular:literal, $resource:literal, $namespaced:literal) => {
        pub(super) const $constant: Kind = Kind {
            group: $group,
            version: "v1",
            kind: stringify!($ty),
            plural: $plural,
            singular: $singular,
            resource: $resource,
            short_names: &[],
            categories: &[],
            namespaced: $namespaced,
            subresources: &[],
            strategy: &Review::<$ty>(std::marker::PhantomData),
        };

        impl Strategy for Review<$ty> {
            typed!($ty);

            fn columns(&self) -> &'static [Column] {
                &[table::NAME]
            }

            fn row(&self, object: &Object, _: i64) -> Vec<Value> {
                vec![table::name(object)]
            }
        }
    };
}

/// Of the API type `T`.
struct Review<T>(std::marker::PhantomData<fn() -> T>);

review!(
    SELF,
    SelfSubjectReview,
    AUTHENTICATION,
    "selfsubjectreviews",
    "selfsubjectreview",
    "selfsubjectreviews.authentication.k8s.io",
    false
);
review!(
    TOKEN,
    TokenReview,
    AUTHENTICATION,
    "tokenreviews",
    "tokenreview",
    "tokenreviews.authentication.k8s.io",
    false
);
review!(
    LOCAL_ACCESS,
    LocalSubjectAccessReview,
    AUTHORIZATION,
    "localsubjectaccessreviews",
    "localsubjectaccessreview",
    "localsubjectaccessreviews.authorization.k8s.io",
    true
);
review!(
    SELF_ACCESS,
    SelfSubjectAccessReview,
    AUTHORIZATION,
    "selfsubjectaccessreviews",
    "selfsubjectaccessreview",
    "selfsubjectaccessreviews.authorization.k8s.io",
    false
);
review!(
    SELF_RULES,
    SelfSubjectRulesReview,
    AUTHORIZATION,
    "selfsubjectrulesreviews",
    "selfsubjectrulesreview",
    "selfsubjectrulesreviews.authorization.k8s.io",
    false
);
review!(
    ACCESS,
    SubjectAccessReview,
    AUTHORIZATION,
    "subjectaccessreviews",
    "subjectaccessreview",
    "subjectaccessreviews.authorization.k8s.io",
    false
);
