"""How clients speak to a served model beside JSON: the Open Inference Protocol (REST and gRPC), npy, Arrow, event streams."""
