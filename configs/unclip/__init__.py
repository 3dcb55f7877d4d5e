"""The stages of unCLIP (Ramesh et al. 2022) at the sizes of its Table 3."""
