"""The runs behind the reports. They use the package as any user would, through its public names."""
