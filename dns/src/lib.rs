//! Records -> zone -> answers, by the Kubernetes DNS naming rules. Knows no API objects and no nftables.
//!
//! Reading order: [`records`] (what the zone is made of), `zone` (lookup -> answer), `server`, `forward`.

pub mod records;
