//! The machinery every controller runs on: work queue, runner, ownership, expectations, leader election.
