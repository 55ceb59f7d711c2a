"""Speech and other sound: 16 kHz waveforms, 50 frames a second."""
