"""Fine-tuning of a pretrained encoder: recognition with CTC, classification."""
