"""What a request's path says, before it is known which route it takes."""
