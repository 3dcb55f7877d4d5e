"""The stages of unCLIP (Ramesh et al. 2022, "DALL·E 2") in the sizes of its Table 3."""
