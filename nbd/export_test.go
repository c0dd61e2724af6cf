package nbd

// Lost is the number of connections that broke off and have requests under way.
func (s *Server) Lost(export string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.exports[export].lost.Load())
}
