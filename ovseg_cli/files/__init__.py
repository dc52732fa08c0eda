"""Files in and out: decoding images, finding inputs, label maps and masks, atomic writes."""
