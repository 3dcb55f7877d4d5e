"""The three stages of Imagen (Saharia et al. 2022) as appendix F prints them; ``recipe`` holds what they share."""
