"""Commands on a session at the microscope."""
