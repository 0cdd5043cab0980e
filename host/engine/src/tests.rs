//! Whole lines of tasks over the doubles of [`crate::testing`].

mod abandoned;
mod faults;
mod finding;
mod keeping;
mod kept_plugins;
mod line;
mod listing;
mod missing;
mod parts;
mod restoring;
