"""The image decoder: FSQ ids -> pixels, by flow matching in VAE latents (Manzano 3.2)."""
