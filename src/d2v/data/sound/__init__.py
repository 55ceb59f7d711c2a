"""What speech and audio share: sound files, their labels and transcripts."""
