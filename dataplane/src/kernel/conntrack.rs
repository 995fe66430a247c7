//! Connection tracking's flows, by the netlink socket that the tables have.

use std::io;

use super::{KernelError, Netlink};
use crate::{
    model::Family,
    wire::{self, UdpFlow},
};

impl Netlink {
    pub(super) fn dump_udp_flows(
        &mut self,
        family: Family,
        each: &mut dyn FnMut(UdpFlow),
    ) -> Result<(), KernelError> {
        let seq = self.next_seq();
        self.request(&wire::flows_request(seq, family), seq, |message| {
            wire::parse_udp_flow(message, family)
                .into_iter()
                .for_each(&mut *each);
            Ok(())
        })
    }

    pub(super) fn delete_udp_flow(&mut self, flow: &UdpFlow) -> Result<bool, KernelError> {
        let seq = self.next_seq();
        match self.request(&wire::delete_flow_request(seq, flow), seq, |_| Ok(())) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(KernelError::Refused { detail, errno, .. }) => Err(refused(flow, detail, errno)),
            Err(error) => Err(error),
        }
    }
}

fn refused(flow: &UdpFlow, detail: Option<String>, errno: io::Error) -> KernelError {
    KernelError::Refused {
        operation: format!("delete the UDP flow to {}", flow.sent_to),
        detail,
        errno,
    }
}
