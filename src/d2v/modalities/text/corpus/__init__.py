"""Plain text to pretrain on."""
