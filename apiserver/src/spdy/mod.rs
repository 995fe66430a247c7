//! SPDY/3.1 as Kubernetes clients speak it: the server's side of a connection that was upgraded.
//!
//! Clients use it for port-forward, and older ones for exec and attach. It carries streams which the client opens, each with
//! a few headers; flow control is not used by them and so not here. Source: SPDY Protocol, draft 3.1, and what
//! `moby/spdystream` sends.
//!
//! Reading order: [`frame`] (bytes and meaning, pure), [`headers`] (their compression), [`session`] (streams).

mod dictionary;
pub mod frame;
pub mod headers;
pub mod session;

pub use session::{Output, Piece, Session, Stream};
