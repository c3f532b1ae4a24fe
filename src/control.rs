//! The control plane: one task owns the ground state; every change enters it as a command.
