//! The only state that both planes touch: the published table (control → data), the outcomes (data → control)
//! and the drain signal.

pub mod clients;
pub mod compress;
pub mod drain;
pub mod ejection;
pub mod judged;
mod labelled;
pub mod mirror;
pub mod outcomes;
pub mod pools;
pub mod rate;
pub mod table;
