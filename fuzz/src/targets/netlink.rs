//! What the kernel says of nf_tables, and what anybody else could put into a table of our name.

use dataplane::{
    model::Family,
    wire::{
        Messages, answer, parse_chain, parse_elements, parse_generation, parse_rule, parse_set,
        parse_table,
    },
};

/// Every message, read as each kind of message.
pub fn run(bytes: &[u8]) {
    let mut count = 0;
    for message in Messages(bytes) {
        count += 1;
        let _ = answer(&message);
        let _ = parse_table(&message);
        let _ = parse_chain(&message);
        let _ = parse_rule(&message);
        let _ = parse_generation(&message);
        for family in Family::ALL {
            let _ = parse_set(&message, family);
        }
        if let Ok(elements) = parse_elements(&message) {
            assert!(elements.len() <= bytes.len(), "elements out of nothing");
        }
    }
    assert!(
        count <= bytes.len() / 16,
        "messages shorter than their headers"
    );
}
