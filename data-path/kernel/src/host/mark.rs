//! Adds the virtual-circuit flag to the packets of a host, where they leave it (claim 23).

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    btf_maps::Array,
    macros::{btf_map, classifier},
    programs::TcContext,
};
use flowlane_kernel::frame::SkbFrame;
use flowlane_pipeline::{Frame, add_flag, tuple};
use flowlane_tables::{MARK_RULES, MarkRule};
use flowlane_wire::{Mac, PortId};

/// Which packets are meant: the first rule that matches decides.
#[btf_map]
pub static RULES: Array<MarkRule, { MARK_RULES as usize }> = Array::new();

/// For tc egress. Frames to groups stay as they are: no switch gives them a flow.
#[classifier]
pub fn flowlane_mark(ctx: TcContext) -> i32 {
    let mut frame = SkbFrame::new(ctx);
    let to_group = frame.addresses().is_none_or(|(destination, _)| Mac::from_u64(destination).is_group());
    if to_group {
        return TC_ACT_UNSPEC;
    }
    let Some(tuple) = tuple(&mut frame, PortId::NONE) else { return TC_ACT_UNSPEC };
    for place in 0..MARK_RULES {
        let Some((rule, flag)) = RULES.get(place).and_then(|rule| Some((rule, rule.flag()?))) else { break };
        if rule.matches(&tuple) {
            add_flag(&mut frame, flag);
            break;
        }
    }
    TC_ACT_UNSPEC
}
