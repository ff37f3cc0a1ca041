//! Who is asking, what they may do, and the proof that a tenant is theirs to touch.

pub mod actor;
pub mod policy;
pub mod scope;
