//! Roles of a node (validator, worker, gateway) wired to the world
