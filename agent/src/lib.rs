//! The node agent: list+watch -> cluster view -> translate -> reconcile.
