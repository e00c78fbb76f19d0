//! The patch formats of the API: JSON Patch ([`json_patch`]), JSON Merge Patch ([`merge_patch`]) and strategic merge patch
//! ([`strategic_merge`]). Server-side apply is in [`crate::managed_fields`].
//!
//! All work on trees; their result goes through the normalising reader again.

mod json;
mod merge;
mod strategic;

pub use json::{MAX_OPERATIONS, json_patch};
pub use merge::merge_patch;
pub use strategic::strategic_merge;

use crate::status::{ApiError, Reason};

/// 422 for a patch that is well formed and does not fit the object. The sentence is upstream's; the cause says what is wrong.
fn unprocessable(why: &str) -> ApiError {
    ApiError::new(422, Reason::Invalid, "the server rejected our request due to an error in our request").with_cause(
        "UnexpectedServerResponse",
        why,
        "",
    )
}
