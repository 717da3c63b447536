"""What every test relies on."""
