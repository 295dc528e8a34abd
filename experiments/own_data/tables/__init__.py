"""Tables: their files, their columns' types, and the sequences that their rows make up."""
