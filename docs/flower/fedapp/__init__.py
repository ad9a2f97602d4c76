"""FedSpeed on Flower: two clients with handwritten digits."""
