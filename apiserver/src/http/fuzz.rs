//! What fuzz targets drive without a server, by the code that runs behind the routes.

use serde_json::Value;

use super::patch::Patch;
use crate::registry::{ApiError, Kind};

/// Changes an object by the bytes of a patch of this media type.
///
/// # Errors
/// What the client would be told. The object may then be changed in part, and is to be thrown away.
pub fn patch(
    media_type: &str,
    kind: &'static Kind,
    object: &mut Value,
    bytes: &[u8],
) -> Result<(), ApiError> {
    let (patch, _) = Patch::parse(media_type, bytes)?;
    patch.apply(kind, object)
}
