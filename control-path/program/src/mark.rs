//! Adds the virtual-circuit flag to packets of this host, as long as somebody wants it.

use crate::{HOST_OBJECT, ProgramError, object::uninterrupted};
use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use flowlane_tables::{MARK_RULES, MarkRule};

/// Packets that leave by an interface are marked while this lives. The link is not pinned: it ends with the process, however
/// that ends.
pub struct Marking {
    _programs: Ebpf,
}

impl Marking {
    /// Begins to mark what leaves by `interface` and matches one of the rules, of which there are at most
    /// [`MARK_RULES`]; what is beyond that is left out.
    ///
    /// # Errors
    /// [`ProgramError::Load`] and [`ProgramError::Attach`] where the kernel refuses the program, which needs root and
    /// Linux 6.6, or where there is no such interface.
    pub fn start(interface: &str, rules: &[MarkRule]) -> Result<Self, ProgramError> {
        const PROGRAM: &str = "flowlane_mark";
        let mut object = EbpfLoader::new().btf(None).load(HOST_OBJECT).map_err(Box::new)?;
        let table = object.map_mut("RULES").ok_or(ProgramError::Incomplete("RULES"))?;
        let access = |source| ProgramError::MapAccess { name: "rules", source };
        let mut table: Array<_, [u8; 48]> = Array::try_from(table).map_err(access)?;
        for (place, rule) in (0..MARK_RULES).zip(rules) {
            table.set(place, rule.to_octets(), 0).map_err(access)?;
        }
        let failed = |source| ProgramError::Attach {
            program: PROGRAM,
            interface: interface.to_owned(),
            source: Box::new(source),
        };
        let program = object.program_mut(PROGRAM).ok_or(ProgramError::Incomplete(PROGRAM))?;
        let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
        uninterrupted(|| program.load()).map_err(failed)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        program.attach_with_options(interface, TcAttachType::Egress, options).map_err(failed)?;
        Ok(Self { _programs: object })
    }
}
