//! The kinds that are questions: a POST is answered, and nothing is stored (U6).

use crate::registry::{
    kind::{Kind, Rules},
    table::{NAME, Table},
};

/// The group of questions about who may do what.
pub const AUTHORIZATION: &str = "authorization.k8s.io";
/// The group of questions about who somebody is.
pub const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whether objects of a kind are answered instead of stored.
#[must_use]
pub fn is_review(kind: &Kind) -> bool {
    matches!(kind.group, AUTHENTICATION | AUTHORIZATION)
}

const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Kind {
    Kind {
        group,
        version: "v1",
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: &["create"],
        subresources: &[],
        rules: Rules::GENERIC,
        table: Table {
            columns: &[NAME],
            cells: |object, row| row.name(object),
        },
    }
}

/// Who the caller is.
pub static SELF_SUBJECT_REVIEWS: Kind = review(
    AUTHENTICATION,
    "SelfSubjectReview",
    "selfsubjectreviews",
    "selfsubjectreview",
);

/// Whether the caller may do something.
pub static SELF_SUBJECT_ACCESS_REVIEWS: Kind = review(
    AUTHORIZATION,
    "SelfSubjectAccessReview",
    "selfsubjectaccessreviews",
    "selfsubjectaccessreview",
);

/// What the caller may do in a namespace.
pub static SELF_SUBJECT_RULES_REVIEWS: Kind = review(
    AUTHORIZATION,
    "SelfSubjectRulesReview",
    "selfsubjectrulesreviews",
    "selfsubjectrulesreview",
);

/// Whether somebody may do something.
pub static SUBJECT_ACCESS_REVIEWS: Kind = review(
    AUTHORIZATION,
    "SubjectAccessReview",
    "subjectaccessreviews",
    "subjectaccessreview",
);

/// The same in one namespace, for its administrators to ask.
pub static LOCAL_SUBJECT_ACCESS_REVIEWS: Kind = Kind {
    namespaced: true,
    ..review(
        AUTHORIZATION,
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
    )
};

/// Whose token this is.
pub static TOKEN_REVIEWS: Kind =
    review(AUTHENTICATION, "TokenReview", "tokenreviews", "tokenreview");

/// What `serviceaccounts/X/token` reads and answers. It has no path of its own.
pub static TOKEN_REQUESTS: Kind = Kind {
    namespaced: true,
    ..review(
        AUTHENTICATION,
        "TokenRequest",
        "tokenrequests",
        "tokenrequest",
    )
};
