//! What the kernel says of tracked flows.

use dataplane::{
    model::Family,
    wire::{Messages, delete_flow_request, parse_udp_flow},
};

/// Every message as a flow of either family; a flow can be named to the kernel again.
pub fn run(bytes: &[u8]) {
    for message in Messages(bytes) {
        for family in Family::ALL {
            if let Some(flow) = parse_udp_flow(&message, family) {
                let request = delete_flow_request(1, &flow);
                assert_eq!(Messages(&request).count(), 1, "one whole message");
            }
        }
    }
}
