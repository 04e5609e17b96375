//! What devices recorded with `lowtide record`, judged again by the same or another config, drawn and
//! exported. It has the same conversation with the judge as the agent: look → judge → record.
#![forbid(unsafe_code)]

pub mod export;
pub mod files;
pub mod import;
pub mod plot;
pub mod replay;
mod rules;
pub mod show;
