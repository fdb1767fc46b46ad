//! To be written in this step.
