//! The `scale` subresource (M12).

use axum::response::Response;
use http::StatusCode;

use super::{
    Call, body, options,
    patch::{self, Patch},
    render::View,
    resource::object_body,
    route::Target,
    schema,
};
use crate::registry::{ApiError, SCALES};

/// The media types of patches: nobody applies a Scale.
const PATCHES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

pub(super) async fn get(call: &Call, target: &Target) -> Result<Response, ApiError> {
    let view = View::of(call)?;
    let freshness = options::freshness(&call.query)?;
    let registry = &call.state.registry;
    let workload = registry
        .get_fresh(target.kind, target.scope(), target.object_name(), freshness)
        .await?;
    Ok(view.respond(StatusCode::OK, &workload.scale(), &[]))
}

pub(super) async fn update(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    let view = View::of(call)?;
    let write = options::write(call)?;
    let (new, warnings) = object_body(call, &SCALES).await?;
    let registry = &call.state.registry;
    let changed = registry.modify_scale(
        target.kind,
        target.scope(),
        target.object_name(),
        &write,
        |scale| {
            *scale = new.clone();
            Ok(())
        },
    );
    Ok(view.respond(StatusCode::OK, &changed.await?, &warnings))
}

pub(super) async fn patch(call: &mut Call, target: &Target) -> Result<Response, ApiError> {
    if body::media_type(call) == patch::APPLY {
        return Err(ApiError::UnsupportedMediaType { accepted: PATCHES });
    }
    let view = View::of(call)?;
    let write = options::write(call)?;
    let validation = options::field_validation(&call.query)?;
    let (patch, duplicates) = Patch::read(call, &SCALES).await?;
    let mut warnings = Vec::new();
    let registry = &call.state.registry;
    let changed = registry.modify_scale(
        target.kind,
        target.scope(),
        target.object_name(),
        &write,
        |scale| {
            patch.apply(&SCALES, scale)?;
            let strict = ApiError::Unprocessable;
            warnings = schema::settle(&SCALES, scale, &duplicates, validation, strict)?;
            Ok(())
        },
    );
    let changed = changed.await?;
    Ok(view.respond(StatusCode::OK, &changed, &warnings))
}
